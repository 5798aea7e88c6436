"""Where a PostgreSQL gallery is, from its URL, and what went wrong there; never its password."""

import dataclasses
import re
import urllib.parse

import psycopg
from psycopg.conninfo import conninfo_to_dict

from iom.errors import StoreError

SCHEMA = "iom"
"""Schema of a gallery where the URL names none."""
_SCHEMA_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_SHAPE = "postgresql://[user[:password]@]host[:port]/database[?schema=NAME&...]"
_SECRETS = ("password", "sslpassword")
_LOST = (psycopg.OperationalError, psycopg.InterfaceError)


@dataclasses.dataclass(frozen=True)
class Place:
    """A schema of a database.

    Attributes:
        name: For messages: host, port, database and schema.
        schema: Where the tables are.
        parameters: For libpq; they may hold a password.
    """

    name: str
    schema: str
    parameters: dict[str, str] = dataclasses.field(repr=False)

    def unreachable(self, error: psycopg.Error) -> StoreError:
        """The error of a connection that was not made; what libpq says of it, without passwords."""
        text = " ".join(str(error).split())
        for secret in filter(None, map(self.parameters.get, _SECRETS)):
            text = text.replace(secret, "***")
        return self.wrong(f"cannot be reached, or does not let this user in: {text}")

    def explain(self, error: psycopg.Error) -> StoreError:
        """An error of PostgreSQL in one line: what its code means, and what to do.

        What the server says beside its code may hold values of rows, so it is left out.
        """
        return self.wrong(_advice(error))

    def wrong(self, text: str) -> StoreError:
        """A `StoreError` about this place."""
        return StoreError(f"{self.name}: {text}")


def parse_place(url: str) -> Place:
    """The place of a URL of libpq's form, with a parameter `schema` of ours.

    What the URL lacks comes from libpq's environment and files (`PGPASSWORD`, `~/.pgpass`).

    Raises:
        StoreError: It cannot be read. It is not repeated: a password may stand anywhere in it.
    """
    front, _, query = url.partition("?")
    before, _, authority = front.removeprefix("postgresql://").partition("/")[0].rpartition("@")
    if url.count("@") > 1 or ("@" in url and "@" not in front.split("/")[2]) or "@" in before:
        raise StoreError(
            f"record store: expected {_SHAPE}, received one '@' too many or in a wrong place; "
            "write the characters @ : / ? # % of a password as %40 %3A %2F %3F %23 %25"
        )
    options = urllib.parse.parse_qsl(query, keep_blank_values=True)
    schema = dict(options).get("schema", SCHEMA)
    if _SCHEMA_NAME.fullmatch(schema) is None or schema.startswith("pg_"):
        raise StoreError("record store: schema: expected small letters, digits and '_', and no 'pg_' in front")
    rest = urllib.parse.urlencode([(name, value) for name, value in options if name != "schema"])
    try:
        parameters = conninfo_to_dict(f"{front}?{rest}" if rest else front)
    except psycopg.Error:
        raise StoreError(f"record store: expected {_SHAPE} with parameters of libpq, received another form") from None
    named = {key: str(value) for key, value in parameters.items() if value is not None}
    database = named.get("dbname", "")
    return Place(f"postgresql://{authority}/{database} (schema {schema})", schema, named)


_ADVICE = {
    "25006": "the database takes no writes (a standby, or set to read only); nothing was written. "
    "Use the primary server",
    "3F000": "there is no such schema",
    "42501": "this user lacks the right to do that; nothing was written. Ask the owner of the database to grant it",
    "42P01": "its tables are gone; take it from a backup",
    "53100": "the disk of the server is full; nothing was written. Make room and try again",
    "53300": "the server has no connection left; nothing was written. Try again",
    "55P03": "another process has been writing for too long; nothing was written. Try again",
    "57014": "the server took too long, or somebody cancelled it; nothing was written. Try again",
    "25P03": "the server gave up waiting for this process; nothing was written. Try again",
    "40001": "another process was faster; nothing was written. Try again",
    "40P01": "another process was faster; nothing was written. Try again",
    "XX001": "the database is damaged; take it from a backup",
    "XX002": "an index of the database is damaged; see REINDEX, or take it from a backup",
}


def _advice(error: psycopg.Error) -> str:
    state = error.sqlstate or ""
    if state in _ADVICE:
        return _ADVICE[state]
    if state.startswith(("08", "57")) or (not state and isinstance(error, _LOST)):
        return "the connection was lost; nothing was written. Try again"
    return f"PostgreSQL reports {type(error).__name__} ({state or 'no code'}); nothing was written"
