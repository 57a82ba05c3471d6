"""Any Database: units of work stand and fall alone, whatever they share a transaction with."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.domain.ids import KeyId
from roadworthy.storage import statements as sql
from roadworthy.storage.keys import SqlKeyStore
from roadworthy.storage.rows import key_params, run_params
from roadworthy.storage.transaction import Database, Transaction, UniqueViolation
from tests.conformance.storage.backends import PROGRAMMING_ERRORS, WRITERS, counters
from tests.conformance.storage.factories import TickingClock, new_run
from tests.conformance.storage.test_stores import key


class Refused(Exception):
    """What a unit raises."""


class Gate:
    """A unit that keeps the writer busy until the test lets it go."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()

    def __call__(self, tx: Transaction) -> None:
        self.reached.set()
        assert self.open.wait(30)


def insert(name: str) -> Callable[[Transaction], int]:
    return lambda tx: tx.run(sql.INSERT_KEY, **key_params(key(name)))


def insert_and_fail(tx: Transaction) -> None:
    insert("refused")(tx)
    raise Refused


async def stored(database: Database) -> list[str]:
    return [one.key_id for one in await SqlKeyStore(database, TickingClock()).list(None)]


async def test_a_unit_that_raises_leaves_nothing(database: Database) -> None:
    with pytest.raises(Refused):
        await database.write(insert_and_fail)
    assert await stored(database) == []


async def test_a_failing_unit_fails_alone_among_those_committed_together(database: Database, backend: str) -> None:
    gate = Gate()
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(database.write(gate))
        await asyncio.to_thread(gate.reached.wait)
        before = group.create_task(database.write(insert("before")))
        failing = group.create_task(outcome(database.write(insert_and_fail)))
        broken = group.create_task(outcome(database.write(lambda tx: tx.run(sql.INSERT_RUN))))
        after = group.create_task(database.write(insert("after")))
        await asyncio.sleep(0)
        gate.open.set()
    assert (before.result(), after.result()) == (1, 1)
    assert isinstance(failing.result(), Refused)
    assert isinstance(broken.result(), PROGRAMMING_ERRORS)
    assert await stored(database) == ["after", "before"]
    # SQLite commits all that waited for the gate at once.
    assert counters(database).transactions == (2 if backend == "sqlite" else 3)


async def outcome(work: Awaitable[object]) -> Exception | None:
    try:
        await work
    except Exception as error:  # noqa: BLE001 -- the test looks at it
        return error
    return None


async def test_a_second_row_of_the_same_name_is_a_unique_violation(database: Database) -> None:
    row = run_params(new_run(), worker=None)
    await database.write(lambda tx: tx.run(sql.INSERT_RUN, **row))
    with pytest.raises(UniqueViolation):
        await database.write(lambda tx: tx.run(sql.INSERT_RUN, **row))


async def test_a_cancelled_waiter_disturbs_nobody(database: Database) -> None:
    gate = Gate()
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(database.write(gate))
        await asyncio.to_thread(gate.reached.wait)
        cancelled = group.create_task(database.write(insert("cancelled")))
        other = group.create_task(database.write(insert("other")))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.sleep(0)
        gate.open.set()
    assert cancelled.cancelled()
    assert other.result() == 1
    assert "other" in await stored(database)


async def test_closing_finishes_what_was_handed_over(database: Database) -> None:
    gate = Gate()
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(database.write(gate))
        await asyncio.to_thread(gate.reached.wait)
        queued = group.create_task(database.write(insert("queued")))
        await asyncio.sleep(0)
        closing = group.create_task(database.close())
        await asyncio.sleep(0)
        gate.open.set()
    assert (queued.result(), closing.done()) == (1, True)


async def test_a_closed_database_says_so(database: Database) -> None:
    await database.close()
    await database.close()
    with pytest.raises(StorageUnavailable):
        await database.write(insert("late"))
    with pytest.raises(StorageUnavailable):
        await SqlKeyStore(database, TickingClock()).find(KeyId("late"))


async def test_a_flood_of_units_is_refused_not_hoarded(database: Database, backend: str) -> None:
    gates = [Gate() for _ in range(WRITERS[backend])]
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for gate in gates:
            group.create_task(database.write(gate))
            await asyncio.to_thread(gate.reached.wait)
        tasks = [group.create_task(outcome(database.write(insert(str(n))))) for n in range(6_000)]
        await asyncio.sleep(0)
        for gate in gates:
            gate.open.set()
    refused = [task.result() for task in tasks if task.result() is not None]
    assert len(refused) == 1_000
    assert all(isinstance(error, StorageUnavailable) for error in refused)
