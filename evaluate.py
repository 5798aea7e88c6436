"""Evaluate a system; see `python evaluate.py --help`."""

from iom.cli.evaluate import main

if __name__ == "__main__":
    raise SystemExit(main())
