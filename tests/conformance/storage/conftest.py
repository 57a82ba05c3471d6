"""Every backend is put through the same tests. A new one adds its name to BACKENDS and a branch to ``database``."""

import shutil
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from roadworthy.storage.keys import SqlKeyStore
from roadworthy.storage.ledger import SqlLedger
from roadworthy.storage.queue import SqlRunQueue
from roadworthy.storage.runs import SqlRunStore
from roadworthy.storage.schema import migrate
from roadworthy.storage.sqlite import open_sqlite
from roadworthy.storage.threads import SqlThreadStore
from roadworthy.storage.transaction import Database
from tests.conformance.storage.factories import TickingClock

BACKENDS = ("sqlite",)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty SQLite file to copy."""
    path = tmp_path_factory.mktemp("template") / "template.db"
    migrate(path)
    return path


@pytest.fixture
def database_file(migrated: Path, tmp_path: Path) -> Path:
    """A SQLite file of the test's own."""
    return Path(shutil.copy(migrated, tmp_path / "roadworthy.db"))


@pytest.fixture(params=BACKENDS)
async def database(request: pytest.FixtureRequest, database_file: Path) -> AsyncGenerator[Database]:
    assert request.param == "sqlite"
    async with open_sqlite(database_file) as database:
        yield database


@pytest.fixture
def clock() -> TickingClock:
    return TickingClock()


@pytest.fixture
def queue(database: Database, clock: TickingClock) -> SqlRunQueue:
    return SqlRunQueue(database, clock)


@pytest.fixture
def runs(database: Database) -> SqlRunStore:
    return SqlRunStore(database)


@pytest.fixture
def threads(database: Database) -> SqlThreadStore:
    return SqlThreadStore(database)


@pytest.fixture
def keys(database: Database) -> SqlKeyStore:
    return SqlKeyStore(database)


@pytest.fixture
def ledger(database: Database) -> SqlLedger:
    return SqlLedger(database)
