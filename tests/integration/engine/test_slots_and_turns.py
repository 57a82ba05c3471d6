"""Who gets a slot, and when: nobody jumps the queue, slots are never over-given, everyone gets a turn."""

import asyncio
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest

from roadworthy.domain.errors import QueueFull
from roadworthy.domain.event import ContentDelta
from roadworthy.domain.run import CancelReason, Run, RunStatus
from roadworthy.ports.runtime import Completed, Progress
from roadworthy.runtimes.scripted import Gate, Script, ScriptedRuntime
from roadworthy.storage.queue import SqlRunQueue
from roadworthy.storage.sqlite import open_sqlite
from tests.integration.engine.failing import Pause
from tests.integration.engine.stage import FakeClock, new_run, open_stage, owner, turns, until

DONE = Completed(response="done", output=None, structured_response=None)


def gated(name: str) -> Script:
    return (ContentDelta(message_id="m", text="begun"), Gate(name=name), Progress(), DONE)


async def test_a_run_starts_at_once_when_a_slot_is_free_and_nobody_waits(database_file: Path) -> None:
    async with open_stage(database_file, runtime=ScriptedRuntime(default=gated("g"))) as stage:
        await turns()
        run = await stage.submit(stage.run())
        assert (run.status, run.attempt) == (RunStatus.RUNNING, 1)
        stage.runtime.gate("g").set()
        assert (await stage.end(run)).status is RunStatus.SUCCESS


async def test_nobody_of_555_arrivals_under_load_jumps_the_queue(database_file: Path) -> None:
    # One user may fill half of the queue: all of them fit, however slowly they are served.
    async with open_stage(database_file, slots=10, queue_size=2_000) as stage:
        await turns()
        order: list[str] = []

        async def arrive(run: Run) -> Run:
            order.append(run.run_id)
            return await stage.submit(run)

        runs: list[Run] = []
        async with asyncio.TaskGroup() as group:
            arrivals: list[asyncio.Task[Run]] = []
            for number in range(555):
                arrivals.append(group.create_task(arrive(stage.run(f"thread-{number}"))))
                if number % 7 == 0:
                    await asyncio.sleep(0.001)
        runs = [arrival.result() for arrival in arrivals]
        ended = await stage.ends(runs)
        assert {run.status for run in ended} == {RunStatus.SUCCESS}
        assert stage.started() == order


async def test_an_arrival_does_not_overtake_one_that_is_still_being_stored(database_file: Path) -> None:
    async with open_stage(database_file, slots=1, runtime=ScriptedRuntime(default=gated("g"))) as stage:
        await turns()
        first = await stage.submit(stage.run("a"))
        pause = Pause()
        stage.queue.before_accept.append(pause)
        async with asyncio.TaskGroup() as group:
            early = group.create_task(stage.submit(stage.run("b")))
            await pause.reached.wait()
            stage.runtime.gate("g").set()
            await stage.end(first)
            await turns()
            late = await stage.submit(stage.run("c"))
            assert late.status is RunStatus.PENDING
            pause.opened.set()
        await stage.ends([early.result(), late])


async def test_slots_are_never_exceeded_and_all_are_used(database_file: Path) -> None:
    runtime = ScriptedRuntime(default=gated("g"))
    async with open_stage(database_file, slots=3, runtime=runtime) as stage:
        runs = [await stage.submit(stage.run(f"thread-{number}")) for number in range(9)]
        await until(lambda: len(stage.started()) == 3)
        await turns()
        assert len(stage.worker.executing()) == len(stage.started()) == 3
        most = 0
        runtime.gate("g").set()
        for run in runs:
            await stage.end(run)
            most = max(most, len(stage.worker.executing()))
        assert most <= 3


async def test_tenants_and_their_users_take_turns(database_file: Path) -> None:
    async with open_stage(database_file, slots=1, runtime=ScriptedRuntime(default=gated("g"))) as stage:
        holder = await stage.submit(stage.run("holder", who=owner("holder", "h")))
        many = [
            await stage.submit(stage.run(f"t{number}", who=owner("many", f"user-{number % 3}"))) for number in range(12)
        ]
        few = [await stage.submit(stage.run(f"t{number}", who=owner("few", "only"))) for number in range(4)]
        stage.runtime.gate("g").set()
        await stage.ends([holder, *many, *few])
        tenants = [execution.run.owner.tenant for execution in stage.runtime.executions[1:9]]
        assert Counter(tenants) == {"many": 4, "few": 4}
        users = [
            execution.run.owner.user for execution in stage.runtime.executions if execution.run.owner.tenant == "many"
        ]
        assert all(len(set(users[start : start + 3])) == 3 for start in range(0, 12, 3))


async def test_runs_of_a_thread_follow_each_other_in_order(database_file: Path) -> None:
    async with open_stage(database_file, slots=4) as stage:
        runs = [await stage.submit(stage.run()) for _ in range(6)]
        await stage.ends(runs)
        assert stage.started() == [run.run_id for run in runs]
        assert [run.ord for run in runs] == [1, 2, 3, 4, 5, 6]


async def test_a_full_queue_refuses_and_stores_nothing(database_file: Path) -> None:
    runtime = ScriptedRuntime(default=gated("g"))
    async with open_stage(database_file, slots=1, queue_size=1, runtime=runtime) as stage:
        await turns()
        running, waiting = await stage.submit(stage.run("a")), await stage.submit(stage.run("b"))
        refused = stage.run("c")
        with pytest.raises(QueueFull):
            await stage.submit(refused)
        listed = await stage.store.list_of_tenant(None, status=None, limit=10, cursor=None)
        assert {run.run_id for run in listed.items} == {running.run_id, waiting.run_id}
        runtime.gate("g").set()
        await stage.ends([running, waiting])
        assert (await stage.end(await stage.submit(stage.run("d")))).status is RunStatus.SUCCESS


async def test_without_a_queue_the_only_slot_serves_again_after_it_was_contended(database_file: Path) -> None:
    runtime = ScriptedRuntime()
    runtime.script(gated("g"))
    async with open_stage(database_file, slots=1, runtime=runtime) as crashed:
        revived = await crashed.submit(crashed.run("a"))
    async with open_stage(database_file, slots=1, queue_size=0, runtime=runtime) as stage:
        await until(lambda: len(stage.worker.executing()) == 1)
        runtime.gate("g").set()
        await stage.end(revived)
        await until(lambda: not stage.worker.executing())
        await turns()
        assert (await stage.submit(stage.run("b"))).status is RunStatus.RUNNING


async def seed(database_file: Path, losses: int, name: str) -> Run:
    """A run that waits since before the start, after so many losses. From the second one on it must execute alone."""
    async with open_sqlite(database_file) as database:
        queue = SqlRunQueue(database, FakeClock())
        new = new_run(name, who=owner(name, name))
        accepted = await queue.accept(new, claim_for="gone", max_pending=10, idempotency=None)
        waiting = await queue.reap(accepted.run, losses=losses, progress_mark=None)
    assert waiting is not None
    return waiting


async def test_a_count_taken_between_a_claim_and_its_news_hides_nobody_who_waits(database_file: Path) -> None:
    first, second = await seed(database_file, 1, "first"), await seed(database_file, 1, "second")
    pause = Pause()
    async with open_stage(database_file, slots=1, after_claim=[pause]) as stage:
        await pause.reached.wait()
        counted = asyncio.Event()
        stage.queue.on_count = counted.set
        await counted.wait()
        await turns()
        pause.opened.set()
        await stage.ends([first, second])


async def test_an_isolated_run_executes_alone(database_file: Path) -> None:
    alone, other = await seed(database_file, 2, "suspect"), await seed(database_file, 1, "neighbour")
    async with open_stage(database_file, runtime=ScriptedRuntime(default=gated("g"))) as stage:
        arrived = await stage.submit(stage.run("arrives"))
        assert arrived.status is RunStatus.PENDING
        await until(lambda: bool(stage.worker.executing()))
        await turns()
        assert set(stage.worker.executing()) == {alone.run_id}
        stage.runtime.gate("g").set()
        await stage.ends([alone, other, arrived])


async def test_others_go_first_for_a_while_and_then_wait_for_the_isolated_run(database_file: Path) -> None:
    runtime = ScriptedRuntime(default=gated("g"))
    runtime.script(gated("long"), gated("early"))
    long, alone = await seed(database_file, 1, "long"), await seed(database_file, 2, "suspect")
    async with open_stage(database_file, runtime=runtime) as stage:
        await until(lambda: set(stage.worker.executing()) == {long.run_id})
        early = await stage.submit(stage.run("early"))
        await until(lambda: early.run_id in stage.worker.executing())
        runtime.gate("early").set()
        await stage.end(early)
        stage.clock.advance(timedelta(seconds=6))
        late = await stage.submit(stage.run("late"))
        assert late.status is RunStatus.PENDING
        await turns()
        assert set(stage.worker.executing()) == {long.run_id}
        runtime.gate("long").set()
        await until(lambda: bool(stage.worker.executing() - {long.run_id}))
        assert set(stage.worker.executing()) == {alone.run_id}
        runtime.gate("g").set()
        await stage.ends([long, alone, late])


async def test_an_isolated_run_that_ends_while_it_waits_holds_up_nobody(database_file: Path) -> None:
    runtime = ScriptedRuntime(default=gated("g"))
    long, alone = await seed(database_file, 1, "long"), await seed(database_file, 2, "suspect")
    async with open_stage(database_file, runtime=runtime) as stage:
        early = await stage.submit(stage.run("early"))
        await until(lambda: set(stage.worker.executing()) == {long.run_id, early.run_id})
        behind = await stage.submit(stage.run("behind"))
        await stage.worker.stop(alone, CancelReason.REQUESTED)
        stage.clock.advance(timedelta(seconds=6))
        await stage.worker.stop(long, CancelReason.REQUESTED)
        await until(lambda: behind.run_id in stage.worker.executing())
        runtime.gate("g").set()
        await stage.ends([early, behind])
