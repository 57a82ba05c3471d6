"""The database itself keeps the audit log and the ledger as they are, and finds what limits count in its indexes."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.dialects import sqlite

from roadworthy.storage import policy_statements as sql
from roadworthy.storage.schema import migrate
from roadworthy.storage.transaction import Statement


@pytest.fixture
def migrated(tmp_path: Path) -> Path:
    path = tmp_path / "roadworthy.db"
    migrate(path)
    return path


@pytest.mark.parametrize("change", ["UPDATE audit SET actor = 'nobody'", "DELETE FROM audit"])
def test_an_entry_of_the_audit_log_can_be_neither_changed_nor_deleted(migrated: Path, change: str) -> None:
    with closing(sqlite3.connect(migrated)) as connection:
        connection.execute(
            "INSERT INTO audit (at, tenant, actor, request_id, action, target) VALUES (1, 'acme', 'a', '', 'b', 'c')"
        )
        connection.commit()
        before = connection.execute("SELECT * FROM audit").fetchall()
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(change)
        connection.rollback()
        assert connection.execute("SELECT * FROM audit").fetchall() == before != []


@pytest.mark.parametrize("change", ["UPDATE model_calls SET cost_nanos = 0", "DELETE FROM model_calls"])
def test_a_row_of_the_ledger_can_be_neither_changed_nor_deleted(migrated: Path, change: str) -> None:
    with closing(sqlite3.connect(migrated)) as connection:
        columns = [name for _, name, *_ in connection.execute("PRAGMA table_info(model_calls)")]
        values = ", ".join("'1'" for _ in columns)
        connection.execute(f"INSERT INTO model_calls ({', '.join(columns)}) VALUES ({values})")
        connection.commit()
        before = connection.execute("SELECT * FROM model_calls").fetchall()
        with pytest.raises(sqlite3.IntegrityError, match="the ledger is append-only"):
            connection.execute(change)
        connection.rollback()
        assert connection.execute("SELECT * FROM model_calls").fetchall() == before != []


@pytest.mark.parametrize("statement", [sql.UNFINISHED_OF_KEY, sql.UNFINISHED_OF_USER, sql.UNFINISHED_OF_TENANT])
def test_unfinished_runs_are_counted_in_their_own_index(migrated: Path, statement: Statement) -> None:
    text = statement.compile(dialect=sqlite.dialect(paramstyle="named")).string
    with closing(sqlite3.connect(migrated)) as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {text}", {"tenant": "acme", "subject": "ann"}).fetchall()
    (step,) = [step[3] for step in plan]
    assert step.startswith("SEARCH runs USING INDEX runs_unfinished (tenant=?")
