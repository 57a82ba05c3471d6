"""Draining: every run is brought to a step's end and given back, whatever it was about to do; no loss is counted."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from roadworthy.domain.errors import Draining, NotFound
from roadworthy.domain.event import AttemptStarted, ContentDelta, RunEnded
from roadworthy.domain.run import CancelReason, Run, RunStatus
from roadworthy.ports.runtime import Completed, Progress
from roadworthy.runtimes.scripted import Begun, Gate, Script, ScriptedRuntime
from tests.integration.engine.failing import Pause
from tests.integration.engine.stage import BOUND, Stage, call, caller, open_stage, turns, until
from tests.integration.engine.stubborn import StubbornRuntime

DONE = Completed(response="done", output=None, structured_response=None)
STEPS: Script = (
    ContentDelta(message_id="m1", text="one"),
    Gate(name="step"),
    Progress(),
    ContentDelta(message_id="m2", text="two"),
    Progress(),
    DONE,
)
AT_ONCE = timedelta(0)


async def under_way(stage: Stage, run: Run) -> Run:
    stored = await stage.submit(run)
    await stage.shown(stored, ContentDelta)
    return stored


async def given_back(stage: Stage, run: Run) -> None:
    """A run that waits again, unharmed."""
    row = await stage.row(run)
    assert (row.status, row.losses, row.attempt) == (RunStatus.PENDING, 0, 1)
    assert stage.witness.finished == []


async def test_a_drain_gives_runs_back_at_a_steps_end_and_the_next_start_goes_on_there(database_file: Path) -> None:
    runtime = ScriptedRuntime(default=STEPS)
    async with open_stage(database_file, runtime=runtime) as stage:
        run = await under_way(stage, stage.run())
        async with asyncio.TaskGroup() as group:
            drained = group.create_task(stage.worker.drain())
            await turns()
            assert not drained.done()
            runtime.gate("step").set()
        await given_back(stage, run)
        assert runtime.executions[0].drained
        assert not runtime.executions[0].cancelled
    async with open_stage(database_file, runtime=runtime) as stage:
        assert stage.revived == 0
        ended = await stage.end(run)
        assert (ended.status, ended.attempt, ended.losses) == (RunStatus.SUCCESS, 2, 0)
        events = [event.body for event in await stage.events(run)]
        texts = [body.text for body in events if isinstance(body, ContentDelta)]
        assert texts == ["one", "two"]
        assert AttemptStarted(attempt=2, last_valid="1-1-2") in events


async def test_a_drain_cuts_off_what_reaches_no_steps_end_in_time(database_file: Path) -> None:
    script = (Begun(call=call("open", outcome="cancelled", estimated=True)), *STEPS)
    runtime = ScriptedRuntime(default=script)
    async with open_stage(database_file, runtime=runtime, drain_timeout=AT_ONCE) as stage:
        run = await under_way(stage, stage.run())
        async with asyncio.timeout(BOUND):
            await stage.worker.drain()
        await given_back(stage, run)
        assert runtime.executions[0].cancelled
        assert await stage.calls(run) == ["open"]


async def test_a_drain_does_not_wait_for_an_agent_that_swallows_its_cancellation(database_file: Path) -> None:
    runtime = StubbornRuntime()
    async with open_stage(database_file, runtime=runtime, drain_timeout=AT_ONCE) as stage:
        run = await under_way(stage, stage.run())
        async with asyncio.timeout(BOUND):
            await stage.worker.drain()
        await given_back(stage, run)
        assert runtime.executions[0].fenced
        runtime.gate("stubborn").set()


async def test_nothing_is_accepted_and_nothing_claimed_while_draining(database_file: Path) -> None:
    async with open_stage(database_file, slots=1, runtime=ScriptedRuntime(default=STEPS)) as stage:
        run = await under_way(stage, stage.run("a"))
        waiting = await stage.submit(stage.run("b"))
        async with asyncio.TaskGroup() as group:
            group.create_task(stage.worker.drain())
            await until(lambda: stage.worker.draining)
            refused = stage.run("c")
            with pytest.raises(Draining):
                await stage.submit(refused)
            stage.runtime.gate("step").set()
        await given_back(stage, run)
        await turns()
        assert stage.started() == [run.run_id]
        assert (await stage.row(waiting)).attempt == 0
        listed = await stage.store.list_of_tenant(None, status=None, limit=10, cursor=None)
        assert refused.run_id not in {one.run_id for one in listed.items}


async def test_a_run_that_was_handed_over_just_before_a_drain_is_refused_whole(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        await turns()
        run = stage.run()
        async with asyncio.TaskGroup() as group:
            refused = group.create_task(_refused(stage, run))
            await asyncio.sleep(0)  # it has come, and not gone further
            await stage.worker.drain()
        assert refused.result()
        with pytest.raises(NotFound):
            await stage.row(run)


async def _refused(stage: Stage, run: Run) -> bool:
    try:
        await stage.submit(run)
    except Draining:
        return True
    return False


async def test_who_waits_is_told_and_who_follows_is_handed_over(database_file: Path) -> None:
    async with open_stage(database_file, drain_timeout=AT_ONCE, runtime=ScriptedRuntime(default=STEPS)) as stage:
        run = await under_way(stage, stage.run())
        async with asyncio.timeout(BOUND), asyncio.TaskGroup() as group:
            waiter = group.create_task(_refusal(stage, run))
            follower = group.create_task(stage.events(run))
            await turns()
            await stage.worker.drain()
        assert isinstance(waiter.result(), Draining)
        assert not any(isinstance(event.body, RunEnded) for event in follower.result())
        with pytest.raises(Draining):
            await stage.runs.wait(run)


async def _refusal(stage: Stage, run: Run) -> Draining | None:
    try:
        await stage.runs.wait(run)
    except Draining as refusal:
        return refusal
    return None


async def test_a_drain_waits_for_a_run_that_is_just_being_accepted(database_file: Path) -> None:
    runtime = ScriptedRuntime(default=STEPS)
    async with open_stage(database_file, runtime=runtime) as stage:
        await turns()
        pause = Pause()
        stage.queue.after_accept.append(pause)
        run = stage.run()
        async with asyncio.timeout(BOUND), asyncio.TaskGroup() as group:
            group.create_task(stage.submit(run))
            await pause.reached.wait()
            drained = group.create_task(stage.worker.drain())
            await turns()
            assert not drained.done()
            pause.opened.set()
            runtime.gate("step").set()
        await given_back(stage, run)


async def test_a_run_whose_accept_takes_longer_than_the_drain_has_patience_is_given_back(database_file: Path) -> None:
    runtime = ScriptedRuntime(default=STEPS)
    async with open_stage(database_file, runtime=runtime, drain_timeout=AT_ONCE) as stage:
        await turns()
        pause = Pause()
        stage.queue.after_accept.append(pause)
        run = stage.run()
        async with asyncio.timeout(BOUND), asyncio.TaskGroup() as group:
            group.create_task(stage.submit(run))
            await pause.reached.wait()
            group.create_task(stage.worker.drain())
            await turns()
            pause.opened.set()
        await given_back(stage, run)


async def test_a_drain_waits_for_a_run_that_is_just_being_claimed_and_claims_no_other(database_file: Path) -> None:
    runtime = ScriptedRuntime(default=STEPS)
    async with open_stage(database_file, runtime=runtime) as crashed:
        runs = [await crashed.submit(crashed.run(name)) for name in "ab"]
    runtime.executions.clear()
    pause = Pause()
    async with open_stage(database_file, runtime=runtime, after_claim=[pause]) as stage:
        await pause.reached.wait()
        async with asyncio.timeout(BOUND), asyncio.TaskGroup() as group:
            drained = group.create_task(stage.worker.drain())
            await turns()
            assert not drained.done()
            pause.opened.set()
            runtime.gate("step").set()
        rows = [await stage.row(run) for run in runs]
        assert [(row.status, row.losses) for row in rows] == [(RunStatus.PENDING, 1)] * 2
        assert len(stage.started()) == 1


async def test_an_attempt_that_has_not_begun_yet_drains_at_its_first_step(database_file: Path) -> None:
    script = (Progress(), Gate(name="never"), DONE)
    async with open_stage(database_file, runtime=ScriptedRuntime(default=script)) as stage:
        pause = Pause()
        stage.log.before_open.append(pause)
        run = await stage.submit(stage.run())
        await pause.reached.wait()
        async with asyncio.timeout(BOUND), asyncio.TaskGroup() as group:
            group.create_task(stage.worker.drain())
            await until(lambda: stage.worker.draining)
            pause.opened.set()
        await given_back(stage, run)
        assert not stage.runtime.executions[0].cancelled


async def test_a_cancellation_outranks_a_drain(database_file: Path) -> None:
    async with open_stage(database_file, runtime=ScriptedRuntime(default=STEPS)) as stage:
        run = await under_way(stage, stage.run())
        async with asyncio.timeout(BOUND), asyncio.TaskGroup() as group:
            group.create_task(stage.worker.drain())
            await until(lambda: stage.worker.draining)
            await stage.runs.cancel(caller(), run.run_id)
        assert (await stage.row(run)).status is RunStatus.CANCELLED


async def test_a_run_given_back_with_a_cancellation_ends_at_the_next_start(database_file: Path) -> None:
    runtime = ScriptedRuntime(default=STEPS)
    async with open_stage(database_file, runtime=runtime, drain_timeout=AT_ONCE) as stage:
        run = await under_way(stage, stage.run())
        await stage.worker.drain()
        cancelled = await stage.runs.cancel(caller(), run.run_id)
        assert cancelled.status is RunStatus.CANCELLED
    async with open_stage(database_file, runtime=runtime) as again:
        assert again.revived == 0
        assert len(runtime.executions) == 1
        assert [one.status for one in stage.witness.finished] == [RunStatus.CANCELLED]


async def test_many_runs_are_all_given_back(database_file: Path) -> None:
    runtime = ScriptedRuntime(default=STEPS)
    async with open_stage(database_file, slots=5, runtime=runtime) as stage:
        runs = [await stage.submit(stage.run(f"thread-{number}")) for number in range(12)]
        await until(lambda: len(stage.worker.executing()) == 5)
        async with asyncio.timeout(BOUND), asyncio.TaskGroup() as group:
            group.create_task(stage.worker.drain())
            runtime.gate("step").set()
        rows = [await stage.row(run) for run in runs]
        assert {row.status for row in rows} == {RunStatus.PENDING}
        assert {row.losses for row in rows} == {0}
    async with open_stage(database_file, slots=5, runtime=runtime) as stage:
        assert {run.status for run in await stage.ends(runs)} == {RunStatus.SUCCESS}


async def test_a_run_that_is_cancelled_before_its_next_attempt_says_what_the_earlier_one_cost(
    database_file: Path,
) -> None:
    steps: Script = (ContentDelta(message_id="m", text="one"), call("a"), call("b"), Gate(name="step"), Progress())
    runtime = ScriptedRuntime(default=(*steps, DONE))
    async with open_stage(database_file, runtime=runtime) as stage:
        run = await under_way(stage, stage.run())
        async with asyncio.TaskGroup() as group:
            group.create_task(stage.worker.drain())
            await turns()
            runtime.gate("step").set()
        ended = await stage.worker.stop(await stage.row(run), CancelReason.REQUESTED)
        assert ended.status is RunStatus.CANCELLED
        usage = ended.result.usage
        calls = await stage.ledger.of_run(run.owner, run.run_id)
        assert (usage.model_calls, usage.cost_nanos) == (2, sum(one.cost_nanos or 0 for one in calls))
        assert usage.cost_nanos > 0
        assert not usage.estimated
        assert ended.result.error is not None
        assert ended.result.error.message == "the run was cancelled before it went on"
