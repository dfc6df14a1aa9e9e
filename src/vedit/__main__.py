"""Run the command line as `python -m vedit`."""

import sys

from vedit.cli import main

if __name__ == "__main__":
    sys.exit(main())
