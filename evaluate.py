"""Evaluate a system: the command `iom evaluate`; see `python evaluate.py --help`."""

from iom.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main(script="evaluate.py", command="evaluate"))
