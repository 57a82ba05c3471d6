"""Whether a database file has the schema that this code knows, and how it gets it.

Called by ``database.py`` before ``sqlite.py`` opens the file.

The usual start finds the file at the latest revision with one plain read and never imports Alembic.
"""

import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import URL, Connection

from roadworthy.storage.sqlite_connection import translated

if TYPE_CHECKING:
    from alembic.config import Config

# In order; the last one is what this code needs.
REVISIONS = ("0001", "0002", "0003", "0004", "0005")
_SINCE = "_since_"
# Seconds that a migration waits for another process that migrates the same file.
_PATIENCE = 30


def migrate(path: Path) -> None:
    """Bring a SQLite file to the latest revision, creating it when it is not there.

    Atomic, and safe beside another process that does the same. The caller has asked
    ``revision_problem`` first.

    Raises:
        StorageUnavailable, StorageFull: the file cannot be read or written.
    """
    try:
        if _revision(path) != REVISIONS[-1]:
            with suppress(OSError):  # SQLite says what is wrong
                path.touch(mode=0o600)  # SQLite would leave it to the umask; its other files follow this one
            _upgrade(path)
    except sqlite3.Error as error:
        raise translated(error) from error


def revision(path: Path) -> str | None:
    """The file's revision; None when there is no file or nothing in it.

    Raises:
        StorageUnavailable: the file cannot be read, or is no database.
    """
    try:
        return _revision(path)
    except sqlite3.Error as error:
        raise translated(error) from error


def revision_problem(found: str | None, database: str) -> str | None:
    """None when this code can use a database at a revision, if need be after ``migrate``; else what is wrong, for an
    operator. ``database``: how to call it.

    A later revision that only adds says so in its name, with the oldest code that may go on: ``0007_since_0005``.
    """
    if found is None or found in REVISIONS or found.partition(_SINCE)[2] in REVISIONS:
        return None
    return f"{database} has the schema {found}, which this version does not know: a newer one has used it"


def alembic_config() -> "Config":
    """Where Alembic finds the revisions. Their connection goes into its attributes."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config


def _revision(path: Path) -> str | None:
    if not path.exists():
        return None
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_PATIENCE)) as connection:
        known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone()
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone() if known else None
        return None if row is None else str(row[0])


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _upgrade(path: Path) -> None:
    # Imported here: half a second that only a new or an old file costs.
    from alembic import command
    from sqlalchemy import create_engine, event, exc
    from sqlalchemy.pool import NullPool

    engine = create_engine(
        URL.create("sqlite", database=str(path.absolute())),
        poolclass=NullPool,
        connect_args={"timeout": _PATIENCE, "isolation_level": None},
    )
    # The driver would begin lazily and not before DDL; the lock makes a second process wait and then find it done.
    event.listen(engine, "begin", _begin_immediate)
    config = alembic_config()
    try:
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        # Here, because the first change of mode needs the file for itself; whoever opens it later finds it done.
        with closing(sqlite3.connect(path, timeout=_PATIENCE)) as plain:
            plain.execute("PRAGMA journal_mode = WAL")
    except exc.DBAPIError as error:
        if isinstance(error.orig, sqlite3.Error):
            raise error.orig from error
        raise
    finally:
        engine.dispose()
