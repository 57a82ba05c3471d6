"""Caps of the whole fleet: counted where a run starts, so that no number of processes exceeds them."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa

from roadworthy.domain.fleet import FleetCaps
from roadworthy.domain.principal import Owner
from roadworthy.domain.run import Run, RunResult, RunStatus
from roadworthy.storage.postgres import PostgresDatabase, open_postgres
from roadworthy.storage.queue import SqlRunQueue
from roadworthy.storage.tables import runs
from roadworthy.storage.transaction import Database
from tests.conformance.storage.backends import Templates, look, open_backend, url_of
from tests.conformance.storage.factories import ALICE, BOB, STRANGER, TickingClock, lease_of, new_run

DONE = RunResult(response="done")
CAPS = [
    FleetCaps(total=2),
    FleetCaps(per_tenant=2),
    FleetCaps(per_agent=2),
    FleetCaps(total=9, per_tenant=9, per_agent=2),
]


async def accept(queue: SqlRunQueue, thread: str, owner: Owner = ALICE, *, agent: str = "demo") -> Run:
    run = new_run(owner, thread, agent=agent)
    return (await queue.accept(run, claim_for="worker", max_pending=1_000, idempotency=None)).run


@pytest.fixture
async def databases(backend: str, templates: Templates, tmp_path: Path) -> AsyncGenerator[Sequence[Database]]:
    """Those of three processes, or of the only one that there can be."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(open_backend(backend, templates, tmp_path))
        others: list[Database] = []
        if isinstance(first, PostgresDatabase):
            others = [await stack.enter_async_context(open_postgres(url_of(first))) for _ in range(2)]
        yield [first, *others]


@pytest.mark.parametrize("caps", CAPS)
async def test_what_is_one_too_many_waits_until_another_has_ended(database: Database, caps: FleetCaps) -> None:
    queue = SqlRunQueue(database, TickingClock(), caps=caps)
    four = [await accept(queue, f"t-{n}") for n in range(4)]
    assert [run.status for run in four] == [RunStatus.RUNNING] * 2 + [RunStatus.PENDING] * 2
    assert await queue.claim(four[2].run_id, worker="worker") is None
    assert await queue.waiting() == []
    assert await queue.finish(lease_of(four[0]), RunStatus.SUCCESS, DONE, events=()) is not None
    assert [one.run_id for one in await queue.waiting()] == [four[2].run_id]
    assert await queue.claim(four[2].run_id, worker="worker") is not None
    assert await queue.claim(four[3].run_id, worker="worker") is None
    # What was refused has changed nothing: it can start later.
    assert await queue.finish(lease_of(four[1]), RunStatus.SUCCESS, DONE, events=()) is not None
    assert await queue.claim(four[3].run_id, worker="worker") is not None


async def test_a_tenants_cap_and_an_agents_are_no_others(database: Database) -> None:
    queue = SqlRunQueue(database, TickingClock(), caps=FleetCaps(per_tenant=1))
    assert (await accept(queue, "a", ALICE)).status is RunStatus.RUNNING
    capped = await accept(queue, "b", BOB)
    assert capped.status is RunStatus.PENDING
    assert (await accept(queue, "c", STRANGER)).status is RunStatus.RUNNING
    agents = SqlRunQueue(database, TickingClock(), caps=FleetCaps(per_agent=2))
    assert (await accept(agents, "d", ALICE)).status is RunStatus.PENDING
    other = await accept(agents, "e", STRANGER, agent="other")
    assert other.status is RunStatus.RUNNING
    assert await agents.waiting() == []
    uncapped = await SqlRunQueue(database, TickingClock()).waiting()
    assert capped.run_id in [one.run_id for one in uncapped]


@pytest.mark.parametrize(
    ("caps", "most"),
    [(FleetCaps(total=5), 5), (FleetCaps(total=50, per_tenant=3), 6), (FleetCaps(per_agent=4), 4)],
)
async def test_processes_that_start_runs_at_once_exceed_no_cap(
    databases: Sequence[Database], caps: FleetCaps, most: int
) -> None:
    queues = [SqlRunQueue(database, TickingClock(), caps=caps) for database in databases]
    uncapped = SqlRunQueue(databases[0], TickingClock())
    async with asyncio.timeout(50):
        async with asyncio.TaskGroup() as group:
            for n in range(30):
                group.create_task(accept(queues[n % len(queues)], f"t-{n}", (ALICE, BOB, STRANGER)[n % 3]))
        assert running(databases[0]) == most
        async with asyncio.TaskGroup() as group:
            for run_id in [one.run_id for one in await uncapped.waiting()]:
                for queue in queues:
                    group.create_task(queue.claim(run_id, worker="worker"))
        assert running(databases[0]) == most


def running(database: Database) -> int:
    ((count,),) = look(database, sa.select(sa.func.count()).select_from(runs).where(runs.c.worker.is_not(None)))[0]
    return int(count)
