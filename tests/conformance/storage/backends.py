"""The databases that every storage test is run on. A new one is a name and a branch here."""

import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from roadworthy.storage.sqlite import open_sqlite
from roadworthy.storage.transaction import Database

BACKENDS = ("sqlite",)


@asynccontextmanager
async def open_backend(name: str, template: Path, folder: Path) -> AsyncGenerator[Database]:
    """An empty, migrated database. ``template``: a migrated SQLite file. ``folder``: a place of the test's own."""
    assert name in BACKENDS
    async with open_sqlite(Path(shutil.copy(template, folder / "roadworthy.db"))) as database:
        yield database
