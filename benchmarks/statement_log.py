"""What Postgres itself says that it executed: its log of statements by who sent them, and its count of transactions."""

from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter, sleep

import psycopg

from tests.support.postgres import PostgresServer, name_of

_MARK = "statement-of "
# So late may a backend that has nothing to do add its numbers to those of the database.
_STATISTICS_SECONDS = 10.5
_RELOAD_SECONDS = 0.5
_BRACKETS = ("BEGIN", "COMMIT", "ROLLBACK")


@dataclass(slots=True)
class Executed:
    """Filled in when the context is left. ``statements``: by application, without BEGIN and COMMIT; ``transactions``:
    those of the database, which counts a statement outside of one as one, in ``counted_seconds``, which are more.
    """

    statements: Counter[str] = field(default_factory=Counter[str])
    transactions: int = 0
    seconds: float = 0.0
    counted_seconds: float = 0.0


@contextmanager
def executed(server: PostgresServer, url: str) -> Generator[Executed]:
    """Of one database, while the context lasts. It slows the server down."""
    log = server.folder / "log"
    found = Executed()
    # Autovacuum's transactions would be counted, too.
    _configure(server, {"autovacuum": "off", "log_line_prefix": f"{_MARK}%a in %d: ", "log_statement": "all"})
    before, start, began_at = _transactions(server, url), log.stat().st_size, perf_counter()
    try:
        yield found
        found.seconds = perf_counter() - began_at
    finally:
        _configure(server, {"log_statement": "none"})
    found.transactions = _transactions(server, url) - before
    found.counted_seconds = perf_counter() - began_at
    _configure(server, {"autovacuum": "on", "log_line_prefix": ""})
    with log.open(errors="replace") as file:
        file.seek(start)
        found.statements.update(filter(None, (_sender(line, f" in {name_of(url)}: ") for line in file)))


def _sender(line: str, database: str) -> str | None:
    """The application of a line that tells a statement of the database."""
    application, found, rest = line.removeprefix(_MARK).partition(database)
    if not line.startswith(_MARK) or not found or not rest.startswith("LOG:"):
        return None
    words = rest.removeprefix("LOG:").strip().partition(": ")[2]
    return None if words.startswith(_BRACKETS) else application


def _configure(server: PostgresServer, settings: Mapping[str, str]) -> None:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        for name, value in settings.items():
            connection.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())
        connection.execute("SELECT pg_reload_conf()")
    sleep(_RELOAD_SECONDS)


def _transactions(server: PostgresServer, url: str) -> int:
    # From another database, so that the question is not counted.
    sleep(_STATISTICS_SECONDS)
    with psycopg.connect(server.url(), autocommit=True) as connection:
        row = connection.execute(
            "SELECT xact_commit FROM pg_stat_database WHERE datname = %s", (name_of(url),)
        ).fetchone()
    assert row is not None
    return int(row[0])
