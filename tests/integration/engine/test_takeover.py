"""Workers on one Postgres: what one leaves another finishes, and a worker that has lost a run writes nothing of it."""

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import Generator
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest

from roadworthy.domain.event import AttemptStarted, ContentDelta, Event, RunEnded, UsageReported
from roadworthy.domain.ids import RunId
from roadworthy.domain.run import CancelReason, Run, RunStatus
from roadworthy.ports.runtime import Completed, Progress
from roadworthy.runtimes.scripted import Gate, Script, ScriptedRuntime
from roadworthy.storage.event_log import SqlEventLog
from tests.integration.engine.replicas import Replica, open_replicas, sound
from tests.integration.engine.stage import FakeClock, call, new_run, until

DONE = Completed(response="done", output=None, structured_response=None)
HELD: Script = (ContentDelta(message_id="m", text="begun"), Gate(name="g"), Progress(), DONE)
NEVER = timedelta(hours=1)


@pytest.fixture
def beside(url: str) -> Generator["psycopg.Connection[tuple[object, ...]]"]:
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


async def stored(replica: Replica, run: Run) -> list[Event]:
    """The run's events as a process sees them that knows only the database."""
    return list(await SqlEventLog(replica.database, replica.store).read(run))


async def under_way(runtime: ScriptedRuntime, count: int) -> None:
    await until(lambda: len(runtime.executions) == count)


async def test_a_dead_workers_runs_are_taken_over_in_the_order_of_their_thread(url: str) -> None:
    runtime = ScriptedRuntime(default=HELD)
    async with asyncio.timeout(50), open_replicas(url, runtime) as replicas:
        first, second = await replicas.start(), await replicas.start()
        await sound(first, second)
        runs = [await first.submit(new_run()) for _ in range(3)]
        await under_way(runtime, 1)
        await first.kill()
        runtime.gate("g").set()
        ended = [await second.end(run) for run in runs]
        assert [run.status for run in ended] == [RunStatus.SUCCESS] * 3
        assert [(run.attempt, run.losses) for run in ended] == [(2, 1), (1, 0), (1, 0)]
        assert [one.run.run_id for one in runtime.executions] == [runs[0].run_id, *(run.run_id for run in runs)]


async def test_a_worker_that_lives_keeps_its_runs(url: str) -> None:
    runtime = ScriptedRuntime(default=HELD)
    async with asyncio.timeout(50), open_replicas(url, runtime) as replicas:
        first, second = await replicas.start(), await replicas.start(clock=_an_hour_late())
        await sound(first, second)
        run = await first.submit(new_run(timeout=timedelta(hours=2)))
        await under_way(runtime, 1)
        await asyncio.sleep(1.5 * first.keeper.terms.length.total_seconds())
        runtime.gate("g").set()
        ended = await second.end(run)
        assert (ended.status, ended.attempt, ended.losses) == (RunStatus.SUCCESS, 1, 0)


async def test_a_dead_workers_run_that_should_stop_is_ended_by_its_successor(url: str) -> None:
    runtime = ScriptedRuntime(default=HELD)
    async with asyncio.timeout(50), open_replicas(url, runtime) as replicas:
        first = await replicas.start(tend_every=NEVER)
        await sound(first)
        run = await first.submit(new_run())
        await under_way(runtime, 1)
        await first.queue.request_cancel(run, CancelReason.REQUESTED)
        await first.kill()
        second = await replicas.start()
        ended = await second.end(run)
        assert (ended.status, ended.attempt) == (RunStatus.CANCELLED, 2)
        assert len(runtime.executions) == 1


async def test_who_cannot_renew_stops_before_another_takes_over(
    url: str, beside: "psycopg.Connection[tuple[object, ...]]"
) -> None:
    """The database refuses the renewals of one worker, and nothing else of it."""
    runtime = ScriptedRuntime()
    runtime.script((ContentDelta(message_id="m", text="begun"), call("paid"), Gate(name="g"), call("late"), DONE))
    beside.execute("CREATE ROLE renewer SUPERUSER LOGIN")
    try:
        async with asyncio.timeout(50), open_replicas(url, runtime) as replicas:
            first = await replicas.start(lease_url=url.replace("postgres@", "renewer@"))
            await sound(first)
            run = await first.submit(new_run())
            await under_way(runtime, 1)
            await until(lambda: "paid" in _paid(first))
            beside.execute("ALTER ROLE renewer NOLOGIN")
            beside.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'renewer'")
            await until(lambda: not first.worker.executing())
            assert not first.keeper.sound
            assert {"lease_renewal_failed", "leases_given_up", "lease_lost"} <= set(first.witness.notes)
            assert (await first.row(run)).status is RunStatus.RUNNING
            # It starts nothing more, and lets others do it.
            waits = await first.submit(new_run("another"))
            assert waits.status is RunStatus.PENDING
            second = await replicas.start()
            runtime.gate("g").set()
            assert ((await second.end(run)).attempt, (await second.end(waits)).status) == (2, RunStatus.SUCCESS)
            assert first.witness.finished == []
            await until(lambda: len(second.witness.finished) == 2)  # told when the calls are on record too
            calls = [one.call_id for one in await second.ledger.of_run(run.owner, run.run_id)]
            assert sorted(calls) == ["late", "paid"]
            beside.execute("ALTER ROLE renewer LOGIN")
            await sound(first)
            await second.kill()
            assert (await first.end(await first.submit(new_run("third")))).status is RunStatus.SUCCESS
    finally:
        beside.execute("DROP ROLE renewer")


async def test_a_wedged_loop_loses_its_runs_and_finds_out_when_it_goes_on(url: str) -> None:
    runtime = ScriptedRuntime(default=HELD)
    async with asyncio.timeout(50), open_replicas(url, runtime) as replicas:
        first, second = await replicas.start(), await replicas.start(slots=1)
        await sound(first, second)
        run = await first.submit(new_run())
        await under_way(runtime, 1)
        first.heart.stopped = True
        await under_way(runtime, 2)
        await until(lambda: not first.worker.executing())
        runtime.gate("g").set()
        ended = await second.end(run)
        assert (ended.status, ended.attempt, ended.losses) == (RunStatus.SUCCESS, 2, 1)
        assert first.witness.finished == []
        bodies = [event.body for event in await stored(second, ended)]
        assert AttemptStarted(attempt=2, last_valid="1-1-2") in bodies


async def test_a_run_that_a_claim_without_an_answer_has_left_is_given_back(url: str) -> None:
    async with asyncio.timeout(50), open_replicas(url) as replicas:
        first = await replicas.start(tend_every=timedelta(milliseconds=100))
        await sound(first)
        run = new_run()
        # As if the connection had broken in the commit of an accept.
        await first.queue.accept(run, claim_for=first.around.worker, max_pending=9, idempotency=None)
        ended = await first.end(run)
        assert (ended.status, ended.attempt, ended.losses) == (RunStatus.SUCCESS, 2, 0)


async def test_a_drained_workers_runs_go_on_elsewhere_at_once(url: str) -> None:
    """By the hint alone: nobody polls, and no lease expires."""
    runtime = ScriptedRuntime(default=HELD)
    async with asyncio.timeout(50), open_replicas(url, runtime) as replicas:
        first, second = [await replicas.start(tend_every=NEVER) for _ in range(2)]
        await sound(first, second)
        runs = [await first.submit(new_run(f"t-{n}")) for n in range(2)]
        await under_way(runtime, 2)
        await first.worker.drain()
        runtime.gate("g").set()
        ended = [await second.end(run) for run in runs]
        assert [(run.status, run.attempt, run.losses) for run in ended] == [(RunStatus.SUCCESS, 2, 0)] * 2
        for run in ended:
            shown = [event.body for event in await stored(second, run)]
            assert AttemptStarted(attempt=2, last_valid="1-1-2") in shown


@pytest.mark.parametrize("deaf", [False, True])
async def test_a_run_is_cancelled_from_another_process(url: str, deaf: bool) -> None:
    runtime = ScriptedRuntime(default=HELD)
    async with asyncio.timeout(50), open_replicas(url, runtime) as replicas:
        replicas.town.deaf = deaf
        tend_every = timedelta(milliseconds=100) if deaf else NEVER
        first, second = [await replicas.start(slots=1, tend_every=tend_every) for _ in range(2)]
        await sound(first, second)
        run = await first.submit(new_run())
        await under_way(runtime, 1)
        waits = await first.submit(new_run())
        assert (await second.worker.stop(waits, CancelReason.REQUESTED)).status is RunStatus.CANCELLED
        assert (await second.worker.stop(run, CancelReason.REQUESTED)).status is RunStatus.RUNNING
        assert (await second.end(run)).status is RunStatus.CANCELLED
        assert [one.run_id for one in first.witness.finished] == [run.run_id]
        followed = [event.body async for batch in first.log.follow(run, after=None) for event in batch]
        assert isinstance(followed[-1], RunEnded)


@pytest.mark.parametrize("deaf", [False, True])
async def test_a_waiting_run_starts_wherever_a_slot_is_free(url: str, deaf: bool) -> None:
    runtime = ScriptedRuntime(default=HELD)
    async with asyncio.timeout(50), open_replicas(url, runtime) as replicas:
        replicas.town.deaf = deaf
        tend_every = timedelta(milliseconds=100) if deaf else NEVER
        first, second = [await replicas.start(slots=1, tend_every=tend_every) for _ in range(2)]
        await sound(first, second)
        for n in range(2):
            await first.submit(new_run(f"t-{n}"))
        await under_way(runtime, 2)
        await until(lambda: [len(one.worker.executing()) for one in (first, second)] == [1, 1])


def _an_hour_late() -> FakeClock:
    clock = FakeClock()
    clock.advance(timedelta(hours=1))
    return clock


def _paid(replica: Replica) -> list[str]:
    """What the attempts under way have told of calls."""
    logs = replica.log._logs.values()  # pyright: ignore[reportPrivateUsage]
    return [event.body.call.call_id for log in logs for event in log.events if isinstance(event.body, UsageReported)]


async def test_a_process_that_was_stopped_finds_its_run_gone_and_leaves_it_alone(url: str) -> None:
    runtime = ScriptedRuntime(default=HELD)
    runtime.gate("g").set()
    command = (sys.executable, "-m", "tests.integration.engine.stopped_worker", url)
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(55), open_replicas(url, runtime) as replicas:
            run_id = (await process.stdout.readline()).decode().strip()
            process.send_signal(signal.SIGSTOP)
            second = await replicas.start()
            ended = await second.end(replace(new_run(), run_id=RunId(run_id)))
            assert (ended.status, ended.attempt, ended.losses) == (RunStatus.SUCCESS, 2, 1)
            told = await stored(second, ended)
            process.stdin.write(b"\n")
            process.send_signal(signal.SIGCONT)
            finished, *notes = (await process.stdout.readline()).decode().split()
            assert finished == "0"
            assert "lease_lost" in notes
            assert await process.wait() == 0
            assert await second.row(ended) == ended
            assert await stored(second, ended) == told
            # Made or not, a call is on record once at most, and the run's events do not change any more.
            calls = [one.call_id for one in await second.ledger.of_run(ended.owner, ended.run_id)]
            assert calls in ([], ["in-flight"])
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
