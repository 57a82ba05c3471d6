"""The schema on Postgres: how a database gets it, and what is said about one that this code does not know."""

import subprocess
import sys
from collections.abc import Generator
from contextlib import closing

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from psycopg import errors, sql
from sqlalchemy.pool import NullPool

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.storage.health import database_problem
from roadworthy.storage.postgres import open_postgres
from roadworthy.storage.postgres_schema import migrate, revision
from roadworthy.storage.schema import REVISIONS
from roadworthy.storage.tables import metadata
from tests.support.postgres import PostgresServer, name_of


@pytest.fixture
def url(server: PostgresServer, migrated_url: str) -> Generator[str]:
    """A migrated database of the test's own."""
    url = server.create(name_of(migrated_url))
    yield url
    server.drop(url)


@pytest.fixture
def empty(server: PostgresServer) -> Generator[str]:
    url = server.create()
    yield url
    server.drop(url)


def test_the_revisions_lead_to_the_tables(migrated_url: str) -> None:
    engine = sa.create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(migrated_url), poolclass=NullPool
    )
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, metadata) == []
        inspector = sa.inspect(connection)
        keys = {name: inspector.get_pk_constraint(name)["constrained_columns"] for name in metadata.tables}
        assert keys == {name: [column.name for column in table.primary_key] for name, table in metadata.tables.items()}
    engine.dispose()


def test_every_text_is_compared_by_its_code_points(migrated_url: str) -> None:
    with psycopg.connect(migrated_url) as connection:
        others = connection.execute(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
            " AND data_type = 'text' AND collation_name IS DISTINCT FROM 'C'"
        ).fetchall()
    assert others == []


@pytest.mark.parametrize("table", ["model_calls", "audit"])
@pytest.mark.parametrize("change", ["UPDATE {} SET tenant = 'x'", "DELETE FROM {}", "TRUNCATE {}"])
def test_the_ledger_and_the_audit_log_only_grow(url: str, table: str, change: str) -> None:
    with psycopg.connect(url) as connection, pytest.raises(errors.IntegrityConstraintViolation, match="append-only"):
        connection.execute(sql.SQL(change).format(sql.Identifier(table)))  # pyright: ignore[reportArgumentType]


def test_replicas_may_migrate_one_new_database_at_once(empty: str) -> None:
    assert revision(empty) is None
    code = "import sys; from roadworthy.storage.postgres_schema import migrate; migrate(sys.argv[1])"
    processes = [subprocess.Popen([sys.executable, "-c", code, empty]) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert revision(empty) == REVISIONS[-1]
    migrate(empty)
    with psycopg.connect(empty) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(REVISIONS[-1],)]


async def test_a_replica_that_runs_names_a_newer_schema_but_not_one_that_only_adds(url: str) -> None:
    async with open_postgres(url) as database:
        assert await database_problem(database) is None
        with psycopg.connect(url) as connection:
            connection.execute("UPDATE alembic_version SET version_num = %s", (f"9999_since_{REVISIONS[-1]}",))
        assert await database_problem(database) is None
        with psycopg.connect(url) as connection:
            connection.execute("UPDATE alembic_version SET version_num = '9999'")
        problem = await database_problem(database)
        assert problem is not None
        assert "9999" in problem


def test_a_server_that_does_not_answer_is_unavailable(server: PostgresServer) -> None:
    nobody = f"postgresql://postgres@/nothing?host={server.folder / 'nowhere'}"
    for ask in (revision, migrate):
        with pytest.raises(StorageUnavailable):
            ask(nobody)


def test_a_migrated_database_costs_no_alembic(migrated_url: str) -> None:
    code = (
        "import sys; from roadworthy.storage.postgres_schema import migrate, revision;"
        "assert revision(sys.argv[1]) is not None; migrate(sys.argv[1]); print('alembic' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code, migrated_url], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


def test_a_migration_waits_for_another_that_is_under_way(empty: str) -> None:
    from roadworthy.storage.postgres_connection import lock_number

    with closing(psycopg.connect(empty)) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", (lock_number("migration"),))
        code = "import sys; from roadworthy.storage.postgres_schema import migrate; migrate(sys.argv[1])"
        process = subprocess.Popen([sys.executable, "-c", code, empty])
        waiting = 0
        while not waiting:
            assert process.poll() is None
            waiting = _scalar(other, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        other.rollback()
        assert process.wait(60) == 0
    assert revision(empty) == REVISIONS[-1]


def _scalar(connection: "psycopg.Connection[tuple[object, ...]]", query: str) -> int:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return int(str(row[0]))
