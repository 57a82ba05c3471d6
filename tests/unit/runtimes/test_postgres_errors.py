"""What Postgres's driver raises, in the words of the core; and who needs the driver at all."""

import subprocess
import sys

import psycopg
import pytest
from psycopg import errors
from psycopg_pool import PoolTimeout

from roadworthy.domain.errors import StorageFull, StorageUnavailable
from roadworthy.runtimes.langgraph.postgres_errors import is_lost, is_overtaken, postgres_errors


@pytest.mark.parametrize(
    ("error", "named", "lost", "overtaken"),
    [
        (errors.DiskFull("x"), StorageFull, False, False),
        (errors.AdminShutdown("x"), StorageUnavailable, True, False),
        (errors.IdleInTransactionSessionTimeout("x"), StorageUnavailable, True, False),
        (errors.ReadOnlySqlTransaction("x"), StorageUnavailable, True, False),
        (errors.ConnectionFailure("x"), StorageUnavailable, True, False),
        (psycopg.OperationalError("server closed the connection unexpectedly"), StorageUnavailable, True, False),
        (psycopg.InterfaceError("the connection is closed"), StorageUnavailable, True, False),
        (PoolTimeout("x"), StorageUnavailable, False, False),
        (errors.LockNotAvailable("x"), StorageUnavailable, False, False),
        (errors.QueryCanceled("x"), StorageUnavailable, False, False),
        (errors.DeadlockDetected("x"), StorageUnavailable, False, True),
    ],
)
def test_what_the_database_does_is_named(
    error: psycopg.Error, named: type[StorageUnavailable], lost: bool, overtaken: bool
) -> None:
    assert (is_lost(error), is_overtaken(error)) == (lost, overtaken)
    with pytest.raises(StorageUnavailable) as raised, postgres_errors():
        raise error
    assert type(raised.value) is named
    assert raised.value.__cause__ is error
    assert "x" not in raised.value.message.split()


@pytest.mark.parametrize("error", [errors.UndefinedTable("x"), errors.UntranslatableCharacter("x")])
def test_a_mistake_looks_like_one(error: psycopg.Error) -> None:
    with pytest.raises(type(error)), postgres_errors():
        raise error


def test_a_runtime_on_sqlite_does_without_the_driver() -> None:
    code = "import roadworthy.runtimes.langgraph.runtime, sys; sys.exit('psycopg' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
