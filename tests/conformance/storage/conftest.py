"""Every backend is put through the same tests; see ``backends.py``."""

from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest

from roadworthy.storage import postgres_schema
from roadworthy.storage.keys import SqlKeyStore
from roadworthy.storage.ledger import SqlLedger
from roadworthy.storage.queue import SqlRunQueue
from roadworthy.storage.runs import SqlRunStore
from roadworthy.storage.schema import migrate
from roadworthy.storage.threads import SqlThreadStore
from roadworthy.storage.transaction import Database
from tests.conformance.storage.backends import BACKENDS, Templates, open_backend
from tests.conformance.storage.factories import EXPIRED, TickingClock
from tests.conformance.storage.replicas import Logs
from tests.support.postgres import PostgresServer
from tests.support.valkey import ValkeyServer, valkey_server


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty SQLite file to copy."""
    path = tmp_path_factory.mktemp("template") / "template.db"
    migrate(path)
    return path


@pytest.fixture(scope="session")
def migrated_url(server: PostgresServer) -> str:
    """A migrated, empty Postgres database to copy."""
    url = server.create()
    postgres_schema.migrate(url)
    return url


@pytest.fixture(scope="session")
def templates(migrated: Path, server: PostgresServer, migrated_url: str) -> Templates:
    return Templates(migrated, server, migrated_url)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    name = request.param
    assert isinstance(name, str)
    return name


@pytest.fixture
async def database(backend: str, templates: Templates, tmp_path: Path) -> AsyncGenerator[Database]:
    async with open_backend(backend, templates, tmp_path) as database:
        yield database


@pytest.fixture(scope="session")
def valkey_of_session() -> Generator[ValkeyServer]:
    with valkey_server() as server:
        yield server


@pytest.fixture
def valkey(valkey_of_session: ValkeyServer) -> ValkeyServer:
    """An empty server. Who ends it or holds it undoes that."""
    valkey_of_session.run("FLUSHALL")
    return valkey_of_session


@pytest.fixture
def log_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def logs(log_kind: str, database: Database, valkey: ValkeyServer) -> Logs:
    return Logs(log_kind, database, valkey.url)


@pytest.fixture
def clock() -> TickingClock:
    return TickingClock()


@pytest.fixture
def queue(database: Database, clock: TickingClock) -> SqlRunQueue:
    return SqlRunQueue(database, clock, lease=EXPIRED)


@pytest.fixture
def runs(database: Database) -> SqlRunStore:
    return SqlRunStore(database)


@pytest.fixture
def threads(database: Database) -> SqlThreadStore:
    return SqlThreadStore(database)


@pytest.fixture
def keys(database: Database, clock: TickingClock) -> SqlKeyStore:
    return SqlKeyStore(database, clock)


@pytest.fixture
def ledger(database: Database) -> SqlLedger:
    return SqlLedger(database)
