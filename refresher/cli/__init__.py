"""Arguments and exit codes; the only place that prints or exits.

Whatever is slow to import is imported by the command that needs it.
"""

from refresher.cli.app import main

__all__ = ["main"]
