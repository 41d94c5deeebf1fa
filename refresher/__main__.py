"""`python -m refresher` is the `refresher` command."""

import sys

from refresher.cli import main

sys.exit(main())
