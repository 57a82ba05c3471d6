"""Migrations lead to the schema of the code, and foreign schemas are named, not touched."""

import os
import re
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.pool import NullPool

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.storage import schema
from roadworthy.storage.ledger_statements import CALLS_OF_RUN, OPEN_KEY_PERIOD, OPEN_RUN_PERIOD
from roadworthy.storage.schema import REVISIONS, migrate, revision, revision_problem
from roadworthy.storage.sqlite_connection import connect
from roadworthy.storage.statements import INSERT_EVENTS, every_statement
from roadworthy.storage.tables import metadata


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a folder with % and ?" / "roadworthy.db"


@pytest.fixture
def migrated(path: Path) -> Path:
    path.parent.mkdir()
    migrate(path)
    return path


def test_migrations_lead_to_the_schema_of_the_code(migrated: Path) -> None:
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(migrated)), poolclass=NullPool)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_migrations_create_the_same_tables_and_indexes_as_the_code(migrated: Path) -> None:
    with closing(sqlite3.connect(":memory:")) as fresh, closing(sqlite3.connect(migrated)) as stored:
        for table in metadata.sorted_tables:
            fresh.execute(str(sa.schema.CreateTable(table).compile(dialect=sqlite.dialect())))
            for index in table.indexes:
                fresh.execute(str(sa.schema.CreateIndex(index).compile(dialect=sqlite.dialect())))
        query = (
            "SELECT type, name, sql FROM sqlite_master "
            "WHERE type != 'trigger' AND name NOT LIKE '%alembic%' AND sql IS NOT NULL"
        )
        normal = [
            {(type_, name, _parts(sql)) for type_, name, sql in connection.execute(query)}
            for connection in (fresh, stored)
        ]
    assert normal[0] == normal[1]
    assert len(normal[0]) > len(metadata.tables)


def _parts(sql: str) -> frozenset[str]:
    """Its columns and constraints in any order: SQLite adds a new column at the end."""
    head, _, body = " ".join(sql.split()).partition("(")
    return frozenset(part.strip() for part in [head, *re.split(r",(?![^(]*\))", body.rpartition(")")[0])])


def test_a_ledger_from_before_prices_keeps_its_rows(path: Path) -> None:
    path.parent.mkdir()
    upgrade_to("0001", path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "INSERT INTO model_calls (run_id, call_id, tenant, owner, key_id, thread_id, agent, attempt, node,"
            " provider, model, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens,"
            " estimated, outcome, started_at, finished_at)"
            " VALUES ('r', 'c', 'acme', 'alice', NULL, 't', 'demo', 1, 'n',"
            " 'p', 'm', 1, 2, 0, 0, 0, 0, 'complete', 5, 6)"
        )
    migrate(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        (row,) = connection.execute("SELECT * FROM model_calls").fetchall()
    kept = ("run_id", "call_id", "tenant", "owner", "input_tokens", "output_tokens", "started_at", "finished_at")
    assert [row[name] for name in kept] == ["r", "c", "acme", "alice", 1, 2, 5, 6]
    assert [row[name] for name in ("cache_write_1h_tokens", "cost_nanos", "price_version")] == [0, None, ""]


def upgrade_to(revision: str, path: Path) -> None:
    """What an earlier version left behind."""
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(path)), poolclass=NullPool)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


def test_the_listed_revisions_are_those_of_the_folder() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
    script = ScriptDirectory.from_config(config)
    assert [revision.revision for revision in script.walk_revisions()][::-1] == list(REVISIONS)


def test_a_runs_calls_are_found_by_the_run_and_not_among_all_of_its_user(migrated: Path) -> None:
    for statement in (CALLS_OF_RUN, OPEN_RUN_PERIOD):
        compiled = statement.compile(dialect=sqlite.dialect(paramstyle="named"))
        with closing(sqlite3.connect(migrated)) as connection:
            params = dict.fromkeys(compiled.params or {}, 1)
            plan = connection.execute(f"EXPLAIN QUERY PLAN {compiled.string}", params).fetchall()
        assert any("SEARCH model_calls" in step[3] and "(run_id=?)" in step[3] for step in plan)


def test_a_keys_calls_are_found_by_the_key_and_not_among_all_of_its_tenant(migrated: Path) -> None:
    compiled = OPEN_KEY_PERIOD.compile(dialect=sqlite.dialect(paramstyle="named"))
    with closing(sqlite3.connect(migrated)) as connection:
        params = dict.fromkeys(compiled.params or {}, 1)
        plan = connection.execute(f"EXPLAIN QUERY PLAN {compiled.string}", params).fetchall()
    assert any("SEARCH model_calls" in step[3] and "key_id=? AND started_at>? AND" in step[3] for step in plan)


def test_migrating_twice_changes_nothing(migrated: Path) -> None:
    before = migrated.read_bytes()
    migrate(migrated)
    assert migrated.read_bytes() == before


def test_a_file_at_the_latest_revision_costs_no_alembic(migrated: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from roadworthy.storage.schema import migrate, revision;"
        "path = Path(sys.argv[1]); assert revision(path) is not None; migrate(path);"
        "print('alembic' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(migrated)], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


def test_two_processes_may_migrate_one_new_file(path: Path) -> None:
    path.parent.mkdir()
    code = (
        "import sys; from pathlib import Path; from roadworthy.storage.schema import migrate\n"
        "migrate(Path(sys.argv[1]))"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert revision(path) == REVISIONS[-1]


def test_no_file_and_an_empty_file_have_no_revision(path: Path) -> None:
    assert revision(path) is None
    path.parent.mkdir()
    path.touch()
    assert revision(path) is None


def test_a_new_file_and_its_log_are_the_users_own_whatever_the_folder(path: Path) -> None:
    path.parent.mkdir(mode=0o755)
    before = os.umask(0)
    try:
        migrate(path)
        with closing(connect(path, read_only=False, patience=timedelta(0))) as connection:
            connection.execute("CREATE TABLE more (n INTEGER)")
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(["roadworthy.db", "roadworthy.db-shm", "roadworthy.db-wal"], 0o600)


@pytest.mark.parametrize("found", [None, *REVISIONS, f"9999_since_{REVISIONS[-1]}", f"9999_since_{REVISIONS[0]}"])
def test_known_schemas_and_later_ones_that_only_add_can_be_used(found: str | None) -> None:
    assert revision_problem(found, "it") is None


@pytest.mark.parametrize("found", ["9999", "9999_since_9998", "9999_since_"])
def test_an_unknown_schema_is_named(found: str) -> None:
    problem = revision_problem(found, "it")
    assert problem is not None
    assert problem.startswith(f"it has the schema {found},")


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    file = tmp_path / "roadworthy.db"
    file.write_bytes(b"this is not a database, whatever its name says" * 100)
    with pytest.raises(StorageUnavailable):
        revision(file)
    with pytest.raises(StorageUnavailable):
        migrate(file)


@pytest.mark.parametrize("dialect", [sqlite.dialect(paramstyle="named"), postgresql.psycopg.dialect()])
def test_every_statement_compiles_for_every_database(dialect: sa.Dialect) -> None:
    texts = [statement.compile(dialect=dialect).string for statement in every_statement()]
    texts.append(INSERT_EVENTS.statement(3).compile(dialect=dialect).string)
    assert len(texts) > 30
    assert all(text.split()[0] in {"SELECT", "INSERT", "UPDATE", "DELETE"} for text in texts)


def test_hot_statements_find_their_rows_by_index(migrated: Path) -> None:
    scans: list[str] = []
    dialect = sqlite.dialect(paramstyle="named")
    with closing(sqlite3.connect(migrated)) as connection:
        for statement in every_statement():
            compiled = statement.compile(dialect=dialect)
            params = dict.fromkeys(compiled.params or {}, 1)
            plan = connection.execute(f"EXPLAIN QUERY PLAN {compiled.string}", params).fetchall()
            scans += [f"{step[3]}: {compiled.string}" for step in plan if step[3].startswith("SCAN")]
    # Whole tables are looked at only where the operator lists what is kept, or where every row of a partial index is
    # wanted. A constant row is no table, and that of the schema's revision has one row.
    lists = ("SCAN api_keys", "SCAN budgets", "SCAN rate_limits", "SCAN audit")
    allowed = ("runs_pending", "runs_running", "threads_erasing", "SCAN CONSTANT ROW", "SCAN alembic_version", *lists)
    assert [scan for scan in scans if not any(word in scan for word in allowed)] == []
