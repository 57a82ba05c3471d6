"""One Postgres server for all tests of a session that want one."""

from collections.abc import Generator

import pytest

from tests.support.postgres import PostgresServer, postgres_server


@pytest.fixture(scope="session")
def server() -> Generator[PostgresServer]:
    with postgres_server() as server:
        yield server
