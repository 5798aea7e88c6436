"""Make a token for the service, or take one back: `iom make-token`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from iom.cli.arguments import Answer, new_parser, run

ROLES = ("verifier", "enroller", "admin", "monitor")
MOST_DAYS = 36500
EPILOG = """\
roles
  verifier   verify and identify
  enroller   that, enrol and renew
  admin      that, revoke and count
  monitor    read the metrics, of all applications

examples:
  iom make-token tokens.json front-door --application default --role verifier --days 90
  iom make-token tokens.json front-door --remove

The token is shown once; the file holds its hash. A running service notices both.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `iom make-token`."""
    parser = new_parser(
        "iom make-token", "Make a token for the service, or take one back.", epilog=EPILOG, answers=True
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="token file; made if missing")
    parser.add_argument("name", metavar="NAME", help="of the token, for logs and taking it back")
    parser.add_argument("--application", default="default", metavar="NAME", help="tenant (default: default)")
    parser.add_argument("--role", choices=ROLES, default="verifier", help="what it allows (default: verifier)")
    parser.add_argument("--days", type=float, metavar="N", help="until it expires (default: never)")
    parser.add_argument("--remove", action="store_true", help="take the token back")
    return run(_make, parser, argv)


def _make(arguments: argparse.Namespace) -> Answer:
    from iom.errors import ConfigError
    from iom.service.tokens import add_token, remove_token

    if arguments.days is not None and not 0 < arguments.days <= MOST_DAYS:
        raise ConfigError(
            f"--days: expected more than 0, {MOST_DAYS} at most, received {arguments.days:g}; "
            "leave it out for a token that does not expire"
        )
    if arguments.remove:
        remove_token(arguments.file, arguments.name)
        return Answer({"name": arguments.name, "removed": True}, f"removed {arguments.name}")
    token = add_token(
        arguments.file, name=arguments.name, application=arguments.application, role=arguments.role, days=arguments.days
    )
    return Answer(
        {"name": arguments.name, "application": arguments.application, "role": arguments.role, "token": token}, token
    )


if __name__ == "__main__":
    raise SystemExit(main())
