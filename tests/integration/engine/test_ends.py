"""How runs end before their agent is done: deadlines, silence, cancellation, newer messages, clients that leave."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from roadworthy.domain.errors import ThreadBusy
from roadworthy.domain.event import ContentDelta, RunEnded, ToolCallFinished, ToolCallStarted
from roadworthy.domain.run import CancelReason, DisconnectPolicy, MultitaskStrategy, Run, RunStatus
from roadworthy.ports.runtime import Completed, Progress
from roadworthy.runtimes.scripted import Begun, Gate, Script, ScriptedRuntime, Stuck
from tests.integration.engine.failing import Pause
from tests.integration.engine.stage import BOUND, Stage, call, caller, open_stage, turns, until
from tests.integration.engine.stubborn import StubbornExecution, StubbornRuntime

# With a clock that stands still this never makes a run idle, but lets the worker look at the clock this often.
LOOKS = timedelta(milliseconds=10)
DONE = Completed(response="done", output=None, structured_response=None)
HELD: Script = (ContentDelta(message_id="m", text="begun"), Gate(name="g"), Progress(), DONE)
SUPERSEDING = (MultitaskStrategy.INTERRUPT, MultitaskStrategy.ROLLBACK)


def code(run: Run) -> str | None:
    return None if run.result.error is None else run.result.error.code


async def under_way(stage: Stage, run: Run) -> Run:
    """Submit a run and wait until its agent has begun."""
    stored = await stage.submit(run)
    await stage.shown(stored, ContentDelta)
    return stored


async def test_a_run_whose_time_is_up_while_it_waits_ends_without_having_started(database_file: Path) -> None:
    async with open_stage(database_file, slots=1, runtime=ScriptedRuntime(default=HELD)) as stage:
        holder = await under_way(stage, stage.run("a", timeout=timedelta(hours=1)))
        waiting = await stage.submit(stage.run("b"))
        stage.clock.advance(timedelta(minutes=3))
        ended = await stage.end(waiting)
        assert (ended.status, code(ended), ended.attempt, ended.started_at) == (RunStatus.TIMEOUT, "timeout", 0, None)
        assert stage.started() == [holder.run_id]
        stage.runtime.gate("g").set()
        assert (await stage.end(holder)).status is RunStatus.SUCCESS


async def test_a_deadline_stops_the_agent_for_real_and_keeps_what_it_had_said(database_file: Path) -> None:
    async with open_stage(database_file, runtime=ScriptedRuntime(default=HELD), idle_timeout=LOOKS) as stage:
        run = await under_way(stage, stage.run())
        stage.clock.advance(timedelta(minutes=2))
        ended = await stage.end(run)
        assert (ended.status, code(ended), ended.result.response) == (RunStatus.TIMEOUT, "timeout", "begun")
        (execution,) = stage.runtime.executions
        assert (execution.cancelled, execution.fenced) == (True, True)
        await until(lambda: not stage.worker.executing())


async def test_silence_ends_a_run_and_progress_starts_the_count_again(database_file: Path) -> None:
    script = (ContentDelta(message_id="m", text="begun"), Gate(name="g"), Progress(), Gate(name="never"), DONE)
    async with open_stage(
        database_file, runtime=ScriptedRuntime(default=script), idle_timeout=timedelta(milliseconds=20)
    ) as stage:
        run = await under_way(stage, stage.run())
        stage.clock.advance(timedelta(milliseconds=15))
        stage.runtime.gate("g").set()
        await until(lambda: stage.runtime.done_by(run) == 1)
        stage.clock.advance(timedelta(milliseconds=15))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await stage.runs.wait(run)
        stage.clock.advance(timedelta(milliseconds=6))
        ended = await stage.end(run)
        assert (ended.status, code(ended)) == (RunStatus.TIMEOUT, "timeout")
        assert ended.result.error is not None
        assert "no progress for 0.02 s" in ended.result.error.message


async def test_silence_does_not_count_while_a_tool_runs(database_file: Path) -> None:
    script = (
        ToolCallStarted(id="t", name="slow", args={}),
        Gate(name="tool"),
        ToolCallFinished(id="t", name="slow", result="r", error=None, duration_ms=1),
        Gate(name="g"),
        DONE,
    )
    async with open_stage(database_file, runtime=ScriptedRuntime(default=script), idle_timeout=LOOKS) as stage:
        run = await stage.submit(stage.run())
        await stage.shown(run, ToolCallStarted)
        stage.clock.advance(timedelta(seconds=60))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await stage.runs.wait(run)
        stage.runtime.gate("tool").set()
        await stage.shown(run, ToolCallFinished)
        stage.clock.advance(timedelta(seconds=1))
        assert (await stage.end(run)).status is RunStatus.TIMEOUT


async def test_a_waiting_run_has_ended_when_its_cancellation_returns(database_file: Path) -> None:
    async with open_stage(database_file, slots=1, runtime=ScriptedRuntime(default=HELD)) as stage:
        holder = await under_way(stage, stage.run("a"))
        waiting = await stage.submit(stage.run("b"))
        behind = await stage.submit(stage.run("b"))
        cancelled = await stage.runs.cancel(caller(), waiting.run_id)
        assert (cancelled.status, code(cancelled)) == (RunStatus.CANCELLED, "cancelled")
        stage.runtime.gate("g").set()
        await stage.ends([holder, behind])
        assert stage.started() == [holder.run_id, behind.run_id]


async def test_a_cancellation_that_another_one_overtook_returns_the_ended_run(database_file: Path) -> None:
    async with open_stage(database_file, slots=1, runtime=ScriptedRuntime(default=HELD)) as stage:
        await under_way(stage, stage.run("a"))
        waiting = await stage.submit(stage.run("b"))
        pause = Pause()
        stage.queue.before_end_pending.append(pause)
        async with asyncio.TaskGroup() as group:
            slow = group.create_task(stage.runs.cancel(caller(), waiting.run_id))
            await pause.reached.wait()
            ended = await stage.end(waiting)
            pause.opened.set()
        assert slow.result() == ended
        assert [run.run_id for run in stage.witness.finished] == [waiting.run_id]


async def test_cancelling_a_running_run_cancels_its_agent_and_bills_the_open_call(database_file: Path) -> None:
    script = (Begun(call=call("open", outcome="cancelled", estimated=True)), *HELD)
    async with open_stage(database_file, runtime=ScriptedRuntime(default=script)) as stage:
        run = await under_way(stage, stage.run())
        await stage.runs.cancel(caller(), run.run_id)
        ended = await stage.end(run)
        assert (ended.status, code(ended), ended.result.response) == (RunStatus.CANCELLED, "cancelled", "begun")
        assert (ended.result.usage.model_calls, ended.result.usage.estimated) == (1, True)
        assert await stage.calls(run) == ["open"]
        assert stage.runtime.executions[0].cancelled


async def test_a_cancelled_run_is_not_cancelled_again_and_a_final_one_stays_as_it_is(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        ended = await stage.end(await stage.submit(stage.run()))
        assert await stage.runs.cancel(caller(), ended.run_id) == ended
        assert [run.run_id for run in stage.witness.finished] == [ended.run_id]


async def test_a_cancellation_by_another_process_is_noticed(database_file: Path) -> None:
    async with open_stage(database_file, slots=1, runtime=ScriptedRuntime(default=HELD)) as stage:
        running = await under_way(stage, stage.run("a"))
        waiting = await stage.submit(stage.run("b"))
        for run in (running, waiting):
            await stage.queue.request_cancel(run, CancelReason.REQUESTED)
        ended = await stage.ends([running, waiting])
        assert [(run.status, code(run)) for run in ended] == [(RunStatus.CANCELLED, "cancelled")] * 2


async def test_a_run_that_was_cancelled_before_its_agent_began_never_begins(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        pause = Pause()
        stage.log.before_open.append(pause)
        run = await stage.submit(stage.run())
        await pause.reached.wait()
        await stage.runs.cancel(caller(), run.run_id)
        pause.opened.set()
        ended = await stage.end(run)
        assert (ended.status, ended.result.response) == (RunStatus.CANCELLED, "")
        assert stage.runtime.done_by(run) == 0
        assert [type(event.body) for event in await stage.events(run)][1:] == [RunEnded]


@pytest.mark.parametrize("strategy", SUPERSEDING)
async def test_a_newer_message_ends_the_active_run_and_waits_its_turn(
    database_file: Path, strategy: MultitaskStrategy
) -> None:
    runtime = ScriptedRuntime()
    runtime.script(HELD)
    async with open_stage(database_file, runtime=runtime) as stage:
        first = await under_way(stage, stage.run())
        queued = await stage.submit(stage.run())
        newer = await stage.accept(stage.run(strategy=strategy))
        assert newer.superseded == first.run_id
        assert newer.run.rollback_of == (first.run_id if strategy is MultitaskStrategy.ROLLBACK else None)
        ended = await stage.ends([first, queued, newer.run])
        assert [run.status for run in ended] == [RunStatus.CANCELLED, RunStatus.SUCCESS, RunStatus.SUCCESS]
        assert code(ended[0]) == "superseded"
        assert stage.started() == [first.run_id, queued.run_id, newer.run.run_id]


async def test_a_busy_thread_refuses_who_asks_for_that(database_file: Path) -> None:
    async with open_stage(database_file, runtime=ScriptedRuntime(default=HELD)) as stage:
        run = await under_way(stage, stage.run())
        with pytest.raises(ThreadBusy):
            await stage.submit(stage.run(strategy=MultitaskStrategy.REJECT))
        stage.runtime.gate("g").set()
        await stage.end(run)
        after = await stage.submit(stage.run(strategy=MultitaskStrategy.REJECT))
        assert (await stage.end(after)).status is RunStatus.SUCCESS


@pytest.mark.parametrize("policy", DisconnectPolicy)
async def test_a_client_that_leaves_ends_the_run_only_if_the_run_says_so(
    database_file: Path, policy: DisconnectPolicy
) -> None:
    async with open_stage(database_file, runtime=ScriptedRuntime(default=HELD)) as stage:
        new = stage.run()
        run = await under_way(stage, replace(new, request=replace(new.request, on_disconnect=policy)))
        await stage.runs.disconnected(run)
        if policy is DisconnectPolicy.CANCEL:
            ended = await stage.end(run)
            assert (ended.status, code(ended)) == (RunStatus.CANCELLED, "disconnected")
        else:
            await turns()
            stage.runtime.gate("g").set()
            assert (await stage.end(run)).status is RunStatus.SUCCESS


async def test_a_run_is_executed_although_its_caller_left_between_commit_and_start(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        pause = Pause()
        stage.queue.after_accept.append(pause)
        run = stage.run()
        async with asyncio.TaskGroup() as group:
            caller_task = group.create_task(stage.submit(run))
            await pause.reached.wait()
            caller_task.cancel()
        assert caller_task.cancelled()
        pause.opened.set()
        assert (await stage.end(await stage.row(run))).status is RunStatus.SUCCESS


async def test_a_run_is_final_while_its_threads_still_hold_the_slot(database_file: Path) -> None:
    runtime = ScriptedRuntime()
    runtime.script((Stuck(gate="thread"), *HELD))
    async with open_stage(database_file, slots=1, runtime=runtime) as stage:
        run = await under_way(stage, stage.run("a"))
        assert not stage.worker.stuck()
        await stage.runs.cancel(caller(), run.run_id)
        assert (await stage.end(run)).status is RunStatus.CANCELLED
        await until(stage.worker.stuck)
        assert stage.worker.executing() == frozenset()
        waiting = await stage.submit(stage.run("b"))
        await turns()
        assert (await stage.row(waiting)).status is RunStatus.PENDING
        runtime.gate("thread").set()
        assert (await stage.end(waiting)).status is RunStatus.SUCCESS
        assert not stage.worker.stuck()
        assert "slot_held_by_threads" in stage.witness.notes


async def test_an_agent_that_swallows_its_cancellation_says_nothing_after_the_end(database_file: Path) -> None:
    async with open_stage(database_file, slots=1, runtime=StubbornRuntime()) as stage:
        run = await under_way(stage, stage.run("a"))
        await stage.runs.cancel(caller(), run.run_id)
        ended = await stage.end(run)
        assert ended.status is RunStatus.CANCELLED
        await until(stage.worker.stuck)
        before = await stage.events(run)
        (execution,) = stage.runtime.executions
        assert isinstance(execution, StubbornExecution)
        assert execution.swallowed >= 1
        stage.runtime.gate("stubborn").set()
        await until(lambda: not stage.worker.stuck())
        assert (await stage.end(await stage.submit(stage.run("b")))).status is RunStatus.SUCCESS
        assert await stage.events(run) == before
        assert await stage.row(run) == ended
        assert [one.run_id for one in stage.witness.finished].count(run.run_id) == 1


async def test_an_agent_that_says_more_while_its_end_is_stored_is_not_heard(database_file: Path) -> None:
    async with open_stage(database_file, slots=1, runtime=StubbornRuntime()) as stage:
        run = await under_way(stage, stage.run())
        pause = Pause()
        stage.queue.before_finish.append(pause)
        await stage.runs.cancel(caller(), run.run_id)
        await pause.reached.wait()
        stage.runtime.gate("stubborn").set()
        await turns()
        pause.opened.set()
        ended = await stage.end(run)
        assert ended.result.response == "begun"
        events = await stage.events(run)
        assert [event.id.n for event in events] == [1, 2, 3]
        assert isinstance(events[-1].body, RunEnded)


async def test_a_process_is_stuck_when_the_run_that_has_it_alone_never_lets_go(database_file: Path) -> None:
    runtime = ScriptedRuntime()
    runtime.script((Stuck(gate="thread"), *HELD))
    async with open_stage(database_file, slots=3, runtime=runtime) as crashed:
        run = await under_way(crashed, crashed.run())
        assert await crashed.queue.reap(await crashed.row(run), losses=2, progress_mark=None)
    async with open_stage(database_file, slots=3, runtime=runtime) as stage:
        await until(lambda: runtime.executions[-1].run.attempt == 2 and not runtime.executions[-1].settled_now)
        await stage.runs.cancel(caller(), run.run_id)
        await stage.end(run)
        await until(stage.worker.stuck)
        runtime.gate("thread").set()
        await until(lambda: not stage.worker.stuck())


async def test_ending_the_worker_cancels_what_still_runs_and_leaves_its_row_for_the_next_start(
    database_file: Path,
) -> None:
    runtime = ScriptedRuntime(default=HELD)
    async with open_stage(database_file, runtime=runtime) as stage:
        run = await under_way(stage, stage.run())
    assert runtime.executions[0].cancelled
    assert stage.witness.finished == []
    async with asyncio.timeout(BOUND), open_stage(database_file, runtime=runtime) as again:
        assert again.revived == 1
        runtime.gate("g").set()
        assert (await again.end(run)).attempt == 2
