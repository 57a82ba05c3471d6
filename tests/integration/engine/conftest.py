"""A migrated database to copy, and the copy of each test."""

from pathlib import Path

import pytest

from roadworthy.storage.schema import migrate
from tests.integration.engine.stage import fresh


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
