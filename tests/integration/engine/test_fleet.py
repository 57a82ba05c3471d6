"""Several workers as one fleet: caps that hold for all of them, turns between tenants, and an API that only accepts."""

import asyncio
from collections.abc import Generator, Sequence
from datetime import timedelta

import psycopg
import pytest

from roadworthy.domain.errors import Draining
from roadworthy.domain.event import ContentDelta
from roadworthy.domain.fleet import FleetCaps
from roadworthy.domain.ids import TenantId
from roadworthy.domain.run import CancelReason, MultitaskStrategy, Run, RunStatus
from roadworthy.engine.acceptor import Acceptor
from roadworthy.ports.queue import IdempotencyRecord
from roadworthy.ports.runtime import Completed, Progress
from roadworthy.runtimes.scripted import Gate, Script, ScriptedRuntime
from tests.integration.engine.replicas import Replica, open_replicas, sound
from tests.integration.engine.stage import new_run, owner, until

DONE = Completed(response="done", output=None, structured_response=None)
HELD: Script = (ContentDelta(message_id="m", text="begun"), Gate(name="g"), Progress(), DONE)
NEVER = timedelta(hours=1)


@pytest.fixture
def beside(url: str) -> Generator["psycopg.Connection[tuple[object, ...]]"]:
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def running(beside: "psycopg.Connection[tuple[object, ...]]") -> list[tuple[str, int]]:
    """Running runs by tenant, as the database has them at one moment."""
    rows = beside.execute("SELECT tenant, count(*) FROM runs WHERE status = 'running' GROUP BY 1 ORDER BY 1").fetchall()
    return [(str(tenant), int(str(count))) for tenant, count in rows]


async def test_three_workers_exceed_no_cap_and_every_run_ends(
    url: str, beside: "psycopg.Connection[tuple[object, ...]]"
) -> None:
    tenants = ("acme", "other", "third")
    caps = FleetCaps(total=5, per_tenant=2)
    seen: list[list[tuple[str, int]]] = []
    runtime = ScriptedRuntime(default=HELD)
    async with asyncio.timeout(55), open_replicas(url, runtime) as replicas:
        workers = [await replicas.start(slots=4, caps=caps) for _ in range(3)]
        await sound(*workers)

        async def submit(n: int) -> Run:
            return await workers[n % 3].submit(
                new_run(f"t-{n}", who=owner(tenants[n % 2 if n < 40 else 2], f"u-{n % 5}"))
            )

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(submit(n)) for n in range(60)]
            while not all(task.done() for task in tasks):
                seen.append(running(beside))
                await asyncio.sleep(0)
        await until(lambda: sum(count for _, count in running(beside)) == 5)
        runtime.gate("g").set()
        while beside.execute("SELECT FROM runs WHERE status IN ('pending', 'running')").fetchone() is not None:
            seen.append(running(beside))
            await asyncio.sleep(0.005)
        ended = [await workers[0].row(task.result()) for task in tasks]
    assert [run.status for run in ended] == [RunStatus.SUCCESS] * 60
    assert {run.attempt for run in ended} == {1}
    assert max(sum(count for _, count in one) for one in seen) == 5
    assert max(count for one in seen for _, count in one) == 2


async def test_a_run_that_a_cap_has_held_back_starts_when_another_process_ends_one(url: str) -> None:
    runtime = ScriptedRuntime(default=HELD)
    async with asyncio.timeout(50), open_replicas(url, runtime) as replicas:
        first, second = [await replicas.start(caps=FleetCaps(total=1)) for _ in range(2)]
        await sound(first, second)
        runs = [await first.submit(new_run("a")), await second.submit(new_run("b"))]
        assert [run.status for run in runs] == [RunStatus.RUNNING, RunStatus.PENDING]
        runtime.gate("g").set()
        assert [(await first.end(run)).status for run in runs] == [RunStatus.SUCCESS] * 2


async def test_a_tenant_with_a_long_line_does_not_keep_the_others_waiting(url: str) -> None:
    runtime = ScriptedRuntime(default=HELD)
    async with asyncio.timeout(50), open_replicas(url, runtime) as replicas:
        workers = [await replicas.start(slots=1) for _ in range(2)]
        await sound(*workers)
        busy = [await one.submit(new_run(f"busy-{n}")) for n, one in enumerate(workers)]
        assert [run.status for run in busy] == [RunStatus.RUNNING] * 2
        long = [await workers[0].submit(new_run(f"long-{n}", who=owner("long", f"u-{n}"))) for n in range(20)]
        short = [await workers[1].submit(new_run(f"short-{n}", who=owner("short", f"u-{n}"))) for n in range(5)]
        runtime.gate("g").set()
        for run in (*long, *short):
            assert (await workers[0].end(run)).status is RunStatus.SUCCESS
        started = [one.run.owner.tenant for one in runtime.executions]
        # Each worker serves both in turn: a run of the short line comes after two of the long one at most.
        last = max(n for n, tenant in enumerate(started) if tenant == TenantId("short"))
        assert started[: last + 1].count(TenantId("long")) <= 2 * len(short) + 2


def acceptor_of(replica: Replica, *, queue_size: int = 100) -> Acceptor:
    """The API in a process of its own; the replica's is only where it looks."""
    return Acceptor(replica.around, queue_size=queue_size)


async def accepted(acceptor: Acceptor, threads: Sequence[str]) -> list[Run]:
    return [(await acceptor.submit(new_run(thread), idempotency=None)).run for thread in threads]


async def test_what_an_api_without_a_worker_accepts_is_executed_elsewhere(url: str) -> None:
    async with asyncio.timeout(50), open_replicas(url) as replicas:
        worker = await replicas.start()
        acceptor = acceptor_of(worker)
        runs = await accepted(acceptor, ["a", "a", "b"])
        assert [run.status for run in runs] == [RunStatus.PENDING] * 3
        assert [(await worker.end(run)).status for run in runs] == [RunStatus.SUCCESS] * 3
        assert (acceptor.stuck(), acceptor.provider_trouble(), acceptor.draining) == (False, None, False)


async def test_an_api_without_a_worker_knows_a_request_again_and_refuses_while_it_drains(url: str) -> None:
    async with asyncio.timeout(50), open_replicas(url) as replicas:
        acceptor = acceptor_of(await replicas.start())
        record = IdempotencyRecord(key="key", body_hash="hash")
        first = await acceptor.submit(new_run(), idempotency=record)
        again = await acceptor.submit(new_run(), idempotency=record)
        found = await acceptor.find_replay(first.run.owner, record)
        assert found is not None
        assert (again.run.run_id, again.replayed, found.run_id) == (first.run.run_id, True, first.run.run_id)
        await acceptor.drain()
        with pytest.raises(Draining):
            await acceptor.submit(new_run(), idempotency=None)


async def test_an_api_without_a_worker_stops_runs_wherever_they_are(url: str) -> None:
    runtime = ScriptedRuntime(default=HELD)
    async with asyncio.timeout(50), open_replicas(url, runtime) as replicas:
        worker = await replicas.start(slots=1, tend_every=NEVER)
        await sound(worker)
        acceptor = Acceptor(worker.around, queue_size=100, wakeups=replicas.town.crier())
        first, second = await accepted(acceptor, ["a", "b"])
        await until(lambda: len(runtime.executions) == 1)
        assert (await acceptor.stop(second, CancelReason.REQUESTED)).status is RunStatus.CANCELLED
        assert (await acceptor.stop(first, CancelReason.REQUESTED)).status is RunStatus.RUNNING
        assert (await worker.end(first)).status is RunStatus.CANCELLED
        (third,) = await accepted(acceptor, ["c"])
        await until(lambda: len(runtime.executions) == 2)
        interrupting = await acceptor.submit(new_run("c", strategy=MultitaskStrategy.INTERRUPT), idempotency=None)
        assert interrupting.superseded == third.run_id
        runtime.gate("g").set()
        assert (await worker.end(interrupting.run)).status is RunStatus.SUCCESS
        assert (await worker.row(third)).status in (RunStatus.CANCELLED, RunStatus.SUCCESS)


async def test_who_loses_a_race_for_a_run_looks_again_without_being_told(
    url: str, beside: "psycopg.Connection[tuple[object, ...]]"
) -> None:
    async with asyncio.timeout(50), open_replicas(url) as replicas:
        first = await replicas.start(tend_every=NEVER)
        await sound(first)
        await first.worker.drain()
        run = (await first.queue.accept(new_run(), claim_for=None, max_pending=9, idempotency=None)).run
        with beside.transaction():
            # As a worker does it that is about to claim, and then does not.
            beside.execute("SELECT FROM threads FOR UPDATE")
            second = await replicas.start(tend_every=NEVER)
            await sound(second)
            await asyncio.sleep(0.05)
            assert not second.worker.executing()
        assert (await second.end(run)).status is RunStatus.SUCCESS
