"""Show the whole pipeline on three faces; see `python run_me.py --help`."""

from iom.cli.demo import main

if __name__ == "__main__":
    raise SystemExit(main())
