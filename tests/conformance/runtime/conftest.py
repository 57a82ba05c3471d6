"""What every test here opens its runtime with: the same graphs, with their state on SQLite and on Postgres."""

import asyncio
from collections.abc import Generator
from pathlib import Path

import pytest

from roadworthy.runtimes.langgraph.postgres_tables import prepare_tables
from roadworthy.storage.postgres_connection import Timeouts, connection_info
from roadworthy.storage.postgres_schema import migrate
from tests.conformance.runtime.playing import Bench
from tests.support.postgres import PostgresServer, name_of

BACKENDS = ("sqlite", "postgres")


@pytest.fixture(scope="session")
def state_template(server: PostgresServer) -> str:
    """A database with all tables and no rows, to copy."""
    url = server.create()
    migrate(url)
    asyncio.run(prepare_tables(connection_info(url, Timeouts())))
    return url


@pytest.fixture
def database(server: PostgresServer, state_template: str) -> Generator[str]:
    """A database of the test's own; its URL."""
    url = server.create(name_of(state_template))
    try:
        yield url
    finally:
        server.drop(url)


@pytest.fixture(params=BACKENDS)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    if request.param == "sqlite":
        return Bench(folder=tmp_path)
    return Bench(folder=tmp_path, url=request.getfixturevalue("database"))


@pytest.fixture
def sqlite_bench(tmp_path: Path) -> Bench:
    return Bench(folder=tmp_path)
