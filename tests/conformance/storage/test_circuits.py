"""The open circuits that replicas share, by ``ports/circuits.py``. Only Postgres has any: SQLite has one process."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path

import pytest

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.storage.postgres import PostgresDatabase, open_postgres
from roadworthy.storage.postgres_circuits import PostgresCircuits
from tests.conformance.storage.backends import Templates, open_backend, url_of

MINUTE = timedelta(minutes=1)
NOTHING = timedelta()
SHORT = timedelta(milliseconds=200)
WRITERS = 20


@pytest.fixture
async def database(templates: Templates, tmp_path: Path) -> AsyncGenerator[PostgresDatabase]:
    async with open_backend("postgres", templates, tmp_path) as database:
        assert isinstance(database, PostgresDatabase)
        yield database


@pytest.fixture
def store(database: PostgresDatabase) -> PostgresCircuits:
    return PostgresCircuits(database)


async def test_a_circuit_is_open_for_as_long_as_is_left_of_its_time(store: PostgresCircuits) -> None:
    assert await store.opened() == {}
    await store.open("anthropic", 10 * MINUTE, 1)
    await store.open("openai", 20 * MINUTE, 3)
    first = await store.opened()
    assert {provider: openings for provider, (_, openings) in first.items()} == {"anthropic": 1, "openai": 3}
    assert 9 * MINUTE < first["anthropic"][0] <= 10 * MINUTE
    assert 19 * MINUTE < first["openai"][0] <= 20 * MINUTE
    second = await store.opened()
    assert second["openai"][0] < first["openai"][0]


async def test_one_whose_time_is_over_is_told_until_somebody_closes_it(store: PostgresCircuits) -> None:
    await store.open("anthropic", NOTHING, 2)
    lasts, openings = (await store.opened())["anthropic"]
    assert (lasts <= NOTHING, openings) == (True, 2)
    await store.close("anthropic")
    assert await store.opened() == {}
    await store.close("anthropic")


async def test_closing_one_leaves_the_others_open(store: PostgresCircuits) -> None:
    for provider in ("a", "b", "A"):
        await store.open(provider, MINUTE, 1)
    await store.close("a")
    assert set(await store.opened()) == {"b", "A"}


async def test_nobody_makes_a_circuit_shorter_than_somebody_else_has_said(store: PostgresCircuits) -> None:
    await store.open("anthropic", 10 * MINUTE, 4)
    await store.open("anthropic", MINUTE, 1)
    lasts, openings = (await store.opened())["anthropic"]
    assert (lasts > 9 * MINUTE, openings) == (True, 4)
    await store.open("anthropic", 20 * MINUTE, 5)
    lasts, openings = (await store.opened())["anthropic"]
    assert (lasts > 19 * MINUTE, openings) == (True, 5)


async def test_one_that_was_closed_begins_anew(store: PostgresCircuits) -> None:
    await store.open("anthropic", 10 * MINUTE, 4)
    await store.close("anthropic")
    await store.open("anthropic", MINUTE, 1)
    lasts, openings = (await store.opened())["anthropic"]
    assert (lasts <= MINUTE, openings) == (True, 1)


async def test_replicas_that_open_one_at_once_agree_on_the_longest(database: PostgresDatabase) -> None:
    async with open_postgres(url_of(database)) as other:
        stores = [PostgresCircuits(database), PostgresCircuits(other)]
        async with asyncio.TaskGroup() as group:
            for number in range(1, WRITERS + 1):
                group.create_task(stores[number % 2].open("anthropic", number * MINUTE, number))
        found = [(await store.opened())["anthropic"] for store in stores]
    assert [openings for _, openings in found] == [WRITERS, WRITERS]
    assert all(lasts > (WRITERS - 1) * MINUTE for lasts, _ in found)


async def test_a_server_that_stays_away_is_an_error_of_the_storage(tmp_path: Path) -> None:
    async with asyncio.timeout(30), open_postgres(f"postgresql:///x?host={tmp_path}", patience=SHORT) as database:
        store = PostgresCircuits(database)
        for attempt in (store.opened(), store.open("anthropic", MINUTE, 1), store.close("anthropic")):
            with pytest.raises(StorageUnavailable):
                await attempt
