"""`notify`: whether notices arrive."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from refresher.cli import options
from refresher.cli.exits import Exit
from refresher.cli.output import say_json, say_table
from refresher.cli.progress import Line
from refresher.cli.settings import Settings
from refresher.errors import ConfigError, Failure

if TYPE_CHECKING:
    from refresher.config import Config
    from refresher.references import Reference


@click.command(epilog="Example: refresher notify --test")
@click.option("--test", is_flag=True, help="Send a test notice to every URL of daemon.notify.")
@options.output
@options.common
@options.settings
def notify(settings: Settings, test: bool, as_json: bool) -> Exit:
    """Tell whether notices arrive.

    Ends with 1 if any URL fails, with 2 if none is configured.
    """
    from refresher import logs

    if not test:
        raise click.UsageError("give --test to send a test notice to every URL of daemon.notify")
    logs.configure("console", debug=settings.debug, stream=sys.stderr)
    config = _config(settings)
    with Line(sys.stderr).waiting("sending a test notice"):
        results = [_try(reference, config.daemon.ca_bundle) for reference in config.daemon.notify]
    if as_json:
        say_json({"notifiers": results})
    else:
        headings = ("NOTIFIER", "RESULT", "SERVICE", "DETAIL")
        say_table(headings, [tuple(result.values()) for result in results])
    return Exit.GOOD if all(result["result"] == "ok" for result in results) else Exit.FAILED


def _try(reference: Reference, ca_bundle: Path | None) -> dict[str, str]:
    """What became of a test at one URL, of which its reference and scheme alone are shown."""
    from refresher.notify import TEST, scheme, send

    about = {"notifier": str(reference), "result": "ok", "service": scheme(reference)}
    try:
        send(reference, TEST, ca_bundle=ca_bundle)
    except Failure as failure:
        return {**about, "result": "failed", "detail": failure.message}
    return {**about, "detail": "the service accepted the notice"}


def _config(settings: Settings) -> Config:
    """The configuration. Raises `ConfigError` where it has no URL, or none can be told."""
    from refresher.notify import require

    config = settings.load("nothing")
    references = config.daemon.notify
    if not references:
        hint = 'none is configured; add Apprise URLs such as notify = [{ env = "NOTIFY_URL" }]'
        raise ConfigError(config.problem("daemon.notify", hint))
    for index, reference in enumerate(references):
        settings.read(config, f"daemon.notify[{index}]", reference)
    require(config)
    return config
