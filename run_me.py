"""Show the whole pipeline on three faces: the command `iom demo`; see `python run_me.py --help`."""

from iom.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main(script="run_me.py", command="demo"))
