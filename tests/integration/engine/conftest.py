"""A migrated database to copy, and the copy of each test."""

from collections.abc import Generator
from pathlib import Path

import pytest

from roadworthy.storage import postgres_schema
from roadworthy.storage.schema import migrate
from tests.integration.engine.stage import fresh
from tests.support.postgres import PostgresServer, name_of, postgres_server


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty SQLite file."""
    path = tmp_path_factory.mktemp("template") / "template.db"
    migrate(path)
    return path


@pytest.fixture
def database_file(template: Path, tmp_path: Path) -> Path:
    """The test's own copy."""
    return fresh(template, tmp_path)


@pytest.fixture(scope="session")
def server() -> Generator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def migrated_url(server: PostgresServer) -> str:
    """A migrated, empty Postgres database to copy."""
    url = server.create()
    postgres_schema.migrate(url)
    return url


@pytest.fixture
def url(server: PostgresServer, migrated_url: str) -> Generator[str]:
    """The test's own copy."""
    url = server.create(name_of(migrated_url))
    yield url
    server.drop(url)
