"""After a crash: every run that was under way goes on, ends as it was asked to, or is quarantined. None is lost."""

from datetime import timedelta
from pathlib import Path

from roadworthy.domain.event import (
    AttemptStarted,
    ContentDelta,
    ContentRetracted,
    RunEnded,
    RunStarted,
    ToolCallFinished,
    ToolCallStarted,
    UsageReported,
)
from roadworthy.domain.run import CancelReason, InputKind, Run, RunStatus, ToolCall
from roadworthy.ports.runtime import Completed, Paused, Progress
from roadworthy.runtimes.scripted import Gate, Script, ScriptedRuntime
from tests.integration.engine.failing import Pause
from tests.integration.engine.stage import FakeClock, call, caller, open_stage, until
from tests.integration.engine.stubborn import ForgetfulRuntime

DONE = Completed(response="done", output=None, structured_response=None)
HELD: Script = (ContentDelta(message_id="m", text="begun"), Gate(name="g"), Progress(), DONE)


def outcome(run: Run) -> tuple[RunStatus, str | None]:
    return run.status, None if run.result.error is None else run.result.error.code


async def crash(database_file: Path, runtime: ScriptedRuntime, clock: FakeClock | None = None) -> Run:
    """A run whose server died while its agent worked."""
    async with open_stage(database_file, runtime=runtime, clock=clock) as stage:
        run = await stage.submit(stage.run())
        await stage.shown(run, ContentDelta)
    return run


async def crash_again(database_file: Path, runtime: ScriptedRuntime, run: Run) -> Run:
    """The server starts, takes the run up, and dies again. The row as the start found it."""
    attempts = len(runtime.executions)
    async with open_stage(database_file, runtime=runtime) as stage:
        await until(lambda: len(runtime.executions) > attempts)
        return await stage.row(run)


async def test_an_orphan_goes_on_in_a_new_attempt_that_names_the_last_valid_event(database_file: Path) -> None:
    runtime = ScriptedRuntime(default=HELD)
    run = await crash(database_file, runtime)
    async with open_stage(database_file, runtime=runtime) as stage:
        assert stage.revived == 1
        runtime.gate("g").set()
        ended = await stage.end(run)
        assert (ended.status, ended.attempt, ended.losses) == (RunStatus.SUCCESS, 2, 1)
        assert ended.result.usage.estimated
        bodies = [event.body for event in await stage.events(run)]
        assert isinstance(bodies[0], RunStarted)
        assert AttemptStarted(attempt=2, last_valid="1-1-2") in bodies
        assert isinstance(bodies[-1], RunEnded)
        assert [one.run_id for one in stage.witness.finished] == [run.run_id]


async def test_tools_and_calls_of_a_lost_attempt_are_counted_once(database_file: Path) -> None:
    runtime = ScriptedRuntime()
    tool = ToolCallFinished(id="t", name="search", result="found", error=None, duration_ms=1)
    runtime.script(
        (
            call("first"),
            ToolCallStarted(id="t", name="search", args={"q": 1}),
            tool,
            Progress(),
            ContentDelta(message_id="m", text="begun"),
            Gate(name="g"),
            call("second"),
            DONE,
        )
    )
    run = await crash(database_file, runtime)
    async with open_stage(database_file, runtime=runtime) as stage:
        runtime.gate("g").set()
        ended = await stage.end(run)
        assert await stage.calls(run) == ["first", "second"]
        assert ended.result.usage.model_calls == 2
        assert [(one.id, one.args, one.result) for one in ended.result.tool_calls] == [("t", {"q": 1}, "found")]
        reports = [event.body for event in await stage.events(run) if isinstance(event.body, UsageReported)]
        assert [report.total.model_calls for report in reports] == [1, 2]


async def test_a_tool_that_nobody_heard_the_end_of_is_in_the_result(database_file: Path) -> None:
    runtime = ScriptedRuntime(default=HELD)
    run = await crash(database_file, runtime)
    runtime.finished[run.run_id] = [ToolCall(id="t", name="search", args={"q": 1}, result="found", duration_ms=1)]
    async with open_stage(database_file, runtime=runtime) as stage:
        runtime.gate("g").set()
        ended = await stage.end(run)
        assert [(one.id, one.args, one.result) for one in ended.result.tool_calls] == [("t", {"q": 1}, "found")]


async def test_a_run_is_poisoned_by_its_third_loss_without_progress(database_file: Path) -> None:
    runtime = ScriptedRuntime(default=HELD)
    run = await crash(database_file, runtime)
    losses = [(await crash_again(database_file, runtime, run)).losses for _ in range(2)]
    assert losses == [1, 2]
    async with open_stage(database_file, runtime=runtime) as stage:
        assert stage.revived == 0
        ended = await stage.row(run)
        assert outcome(ended) == (RunStatus.ERROR, "poisoned")
        assert [one.run_id for one in stage.witness.finished] == [run.run_id]
        assert isinstance((await stage.events(run))[-1].body, RunEnded)
        assert len(runtime.executions) == 3
        runtime.gate("g").set()
        assert outcome(await stage.end(await stage.submit(stage.run()))) == (RunStatus.SUCCESS, None)


async def test_progress_between_losses_starts_their_count_again(database_file: Path) -> None:
    runtime = ScriptedRuntime()
    runtime.script((*HELD[:-1], ContentDelta(message_id="n", text="more"), Gate(name="late"), DONE))
    run = await crash(database_file, runtime)
    await crash_again(database_file, runtime, run)
    async with open_stage(database_file, runtime=runtime) as stage:
        runtime.gate("g").set()
        await until(lambda: runtime.done_by(run) == 1)
    async with open_stage(database_file, runtime=runtime) as stage:
        assert (await stage.row(run)).losses == 1
        runtime.gate("late").set()
        assert outcome(await stage.end(run)) == (RunStatus.SUCCESS, None)


async def test_a_drain_between_crashes_neither_counts_nor_forgives(database_file: Path) -> None:
    runtime = ScriptedRuntime(default=HELD)
    run = await crash(database_file, runtime)
    async with open_stage(database_file, runtime=runtime, drain_timeout=timedelta(0)) as stage:
        await until(lambda: set(stage.worker.executing()) == {run.run_id})
        await stage.worker.drain()
        assert (await stage.row(run)).losses == 1
    assert (await crash_again(database_file, runtime, run)).losses == 1
    async with open_stage(database_file, runtime=runtime) as stage:
        assert (await stage.row(run)).losses == 2


async def test_a_cancellation_comes_before_everything_else(database_file: Path) -> None:
    runtime, clock = ScriptedRuntime(default=HELD), FakeClock()
    async with open_stage(database_file, runtime=runtime, clock=clock, tend_every=timedelta(hours=1)) as stage:
        run = await stage.submit(stage.run())
        await stage.shown(run, ContentDelta)
        await stage.queue.request_cancel(run, CancelReason.DISCONNECTED)
    clock.advance(timedelta(hours=1))
    async with open_stage(database_file, runtime=runtime, clock=clock) as stage:
        assert outcome(await stage.row(run)) == (RunStatus.CANCELLED, "disconnected")
        assert len(runtime.executions) == 1


async def test_a_deadline_that_passed_meanwhile_ends_the_run(database_file: Path) -> None:
    runtime, clock = ScriptedRuntime(default=HELD), FakeClock()
    run = await crash(database_file, runtime, clock)
    clock.advance(timedelta(minutes=2))
    async with open_stage(database_file, runtime=runtime, clock=clock) as stage:
        ended = await stage.row(run)
        assert outcome(ended) == (RunStatus.TIMEOUT, "timeout")
        assert ended.result.usage.estimated


async def test_runs_that_waited_at_the_crash_start_in_their_order(database_file: Path) -> None:
    runtime = ScriptedRuntime(default=HELD)
    async with open_stage(database_file, slots=1, runtime=runtime) as stage:
        runs = [await stage.submit(stage.run()) for _ in range(4)]
        await stage.shown(runs[0], ContentDelta)
    runtime.executions.clear()
    runtime.gate("g").set()
    async with open_stage(database_file, slots=1, runtime=runtime) as stage:
        await stage.ends(runs)
        assert stage.started() == [run.run_id for run in runs]


async def test_an_answer_is_noted_before_the_first_attempt_that_begins_whichever_that_is(database_file: Path) -> None:
    runtime = ScriptedRuntime()
    runtime.script((Progress(), Paused(response="?", output=None)), HELD)
    async with open_stage(database_file, runtime=runtime) as stage:
        asked = await stage.end(await stage.submit(stage.run()))
        pause = Pause()
        stage.queue.before_note.append(pause)
        accepted = await stage.runs.resume(
            caller(),
            asked.run_id,
            "yes",
            request_id="r",
            idempotency=None,
            on_disconnect=asked.request.on_disconnect,
        )
        assert accepted.run.request.kind is InputKind.RESUME
        await pause.reached.wait()
    assert accepted.run.resume_mark is None
    async with open_stage(database_file, runtime=runtime) as stage:
        await stage.shown(accepted.run, ContentDelta)
        row = await stage.row(accepted.run)
        assert (row.attempt, row.resume_mark) == (2, "1")
        runtime.gate("g").set()
        assert outcome(await stage.end(accepted.run)) == (RunStatus.SUCCESS, None)


async def test_text_that_the_next_attempt_does_not_go_on_from_is_retracted_each_time(database_file: Path) -> None:
    runtime = ForgetfulRuntime(default=(ContentDelta(message_id="m", text="begun"), Gate(name="g"), DONE))
    run = await crash(database_file, runtime)
    async with open_stage(database_file, runtime=runtime) as stage:
        await until(lambda: len(runtime.executions) == 2)
        await until(lambda: stage.stored_log.held_events == 3)
    async with open_stage(database_file, runtime=runtime) as stage:
        runtime.gate("g").set()
        await stage.end(run)
        told = [event.body for event in await stage.events(run) if not isinstance(event.body, RunStarted | RunEnded)]
        void, said = ContentRetracted(message_id="m"), ContentDelta(message_id="m", text="begun")
        assert [type(body) if isinstance(body, AttemptStarted) else body for body in told] == [
            said,
            AttemptStarted,
            void,
            said,
            AttemptStarted,
            void,
            said,
        ]
