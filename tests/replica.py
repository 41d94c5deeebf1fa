"""`refresher run` with a lease of so many seconds: a test cannot wait a minute for each.

python -m tests.replica CONFIG SECONDS
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from refresher import config, logs
from refresher.daemon import Daemon, Options


def main(path: Path, lease_seconds: float) -> None:
    """Until it is told to stop."""
    logs.configure("json")
    options = Options(watched=lambda: [path], lease_seconds=lease_seconds)
    daemon = Daemon(lambda: config.load(path, os.environ), options)
    with daemon.signals():
        daemon.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
