"""The database itself keeps the audit log as it is, and finds what limits count without looking at finished runs."""

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


@pytest.mark.parametrize("statement", [sql.UNFINISHED_OF_KEY, sql.UNFINISHED_OF_USER, sql.UNFINISHED_OF_TENANT])
def test_unfinished_runs_are_counted_in_their_own_index(migrated: Path, statement: Statement) -> None:
    text = statement.compile(dialect=sqlite.dialect(paramstyle="named")).string
    with closing(sqlite3.connect(migrated)) as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {text}", {"tenant": "acme", "subject": "ann"}).fetchall()
    (step,) = [step[3] for step in plan]
    assert step.startswith("SEARCH runs USING INDEX runs_unfinished (tenant=?")
