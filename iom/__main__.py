"""`python -m iom` is the command `iom`."""

from iom.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
