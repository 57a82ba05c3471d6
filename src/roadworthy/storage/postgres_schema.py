"""Whether a Postgres database has the schema that this code knows, and how it gets it. The same revisions as
``schema.py``, which does this for SQLite.

Called by ``database.py`` before ``postgres.py`` opens the database.
"""

from contextlib import closing
from dataclasses import replace
from datetime import timedelta

import psycopg

from roadworthy.storage.postgres_connection import Timeouts, connect, is_defect, lock_number, translated
from roadworthy.storage.schema import REVISIONS, alembic_config

# A replica that starts beside one that migrates waits for it that long; a change of a table waits for its lock.
_TIMEOUTS = Timeouts(
    statement=timedelta(minutes=10), lock=timedelta(seconds=30), idle_in_transaction=timedelta(minutes=1)
)
_MIGRATION = lock_number("migration")


def migrate(url: str) -> None:
    """Bring a database to the latest revision. All or nothing, and safe beside replicas that do the same.

    The caller has asked ``schema.revision_problem`` first.

    Raises:
        StorageUnavailable, StorageFull: the database does not answer, or somebody keeps its tables locked.
    """
    try:
        if _revision(url) != REVISIONS[-1]:
            _upgrade(url)
    except psycopg.Error as error:
        if is_defect(error):
            raise
        raise translated(error) from error


def revision(url: str) -> str | None:
    """The database's revision; None when it is empty.

    Raises:
        StorageUnavailable: the database does not answer.
    """
    try:
        return _revision(url)
    except psycopg.Error as error:
        if is_defect(error):
            raise
        raise translated(error) from error


def server_version(url: str) -> str:
    """Which Postgres it is, as in ``18.1``.

    Raises:
        StorageUnavailable: the database does not answer.
    """
    try:
        with closing(connect(url, Timeouts())) as connection:
            return connection.info.parameter_status("server_version") or "of an unknown version"
    except psycopg.Error as error:
        if is_defect(error):
            raise
        raise translated(error) from error


def _revision(url: str) -> str | None:
    with closing(connect(url, Timeouts())) as connection:
        known = connection.execute("SELECT to_regclass('alembic_version') IS NOT NULL").fetchone()
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone() if known and known[0] else None
        return None if row is None else str(row[0])


def _upgrade(url: str) -> None:
    # Imported here: half a second that only a new or an old database costs.
    from alembic import command
    from sqlalchemy import create_engine, exc
    from sqlalchemy.pool import NullPool

    def migrating() -> "psycopg.Connection[tuple[object, ...]]":
        connection = connect(url, replace(_TIMEOUTS), name="roadworthy migrate")
        # The driver's usual cursor and transactions, which SQLAlchemy counts on.
        connection.cursor_factory = psycopg.Cursor
        connection.autocommit = False
        return connection

    engine = create_engine("postgresql+psycopg://", creator=migrating, poolclass=NullPool)
    config = alembic_config()
    try:
        with engine.begin() as connection:
            # Whoever comes second waits here, and then finds it done.
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION})")
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except exc.DBAPIError as error:
        if isinstance(error.orig, psycopg.Error):
            raise error.orig from error
        raise
    finally:
        engine.dispose()
