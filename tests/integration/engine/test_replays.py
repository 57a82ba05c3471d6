"""A response from the journal is billed once, by whichever attempt is the first to tell the ledger of it."""

from dataclasses import replace
from pathlib import Path

from roadworthy.domain.event import ContentDelta, UsageReported
from roadworthy.domain.run import RunStatus
from roadworthy.ports.runtime import Completed, ModelReplayed, Progress
from roadworthy.runtimes.scripted import Gate, ScriptedRuntime
from tests.integration.engine.stage import call, open_stage

BEGUN = (ContentDelta(message_id="m", text="begun"), Gate(name="g"))
DONE = Completed(response="done", output=None, structured_response=None)


async def test_a_replay_of_a_call_on_record_is_counted_once(database_file: Path) -> None:
    runtime = ScriptedRuntime()
    runtime.script((call("first"), Progress(), *BEGUN, ModelReplayed(call=call("first")), call("second"), DONE))
    async with open_stage(database_file, runtime=runtime) as stage:
        run = await stage.submit(stage.run())
        await stage.shown(run, ContentDelta)
    async with open_stage(database_file, runtime=runtime) as stage:
        runtime.gate("g").set()
        ended = await stage.end(run)
        assert (ended.status, ended.attempt) == (RunStatus.SUCCESS, 2)
        assert await stage.calls(run) == ["first", "second"]
        assert ended.result.usage.model_calls == 2


async def test_a_replay_of_a_call_that_the_ledger_never_heard_of_is_billed(database_file: Path) -> None:
    runtime = ScriptedRuntime()
    replay = ModelReplayed(call=call("first"))
    runtime.script((*BEGUN, replay, replay, DONE))
    async with open_stage(database_file, runtime=runtime) as stage:
        run = await stage.submit(stage.run())
        await stage.shown(run, ContentDelta)
    async with open_stage(database_file, runtime=runtime) as stage:
        runtime.gate("g").set()
        ended = await stage.end(run)
        assert await stage.calls(run) == ["first"]
        assert ended.result.usage.model_calls == 1
        reports = [event.body for event in await stage.events(run) if isinstance(event.body, UsageReported)]
        assert [report.call.call_id for report in reports] == ["first"]


async def test_calls_outside_of_the_journal_s_reach_are_counted_over_all_attempts(database_file: Path) -> None:
    runtime = ScriptedRuntime()
    outside = [replace(call(name), journalled=False) for name in ("first", "second")]
    runtime.script((outside[0], call("kept"), Progress(), *BEGUN, outside[1], DONE))
    async with open_stage(database_file, runtime=runtime) as stage:
        run = await stage.submit(stage.run())
        await stage.shown(run, ContentDelta)
    async with open_stage(database_file, runtime=runtime) as stage:
        runtime.gate("g").set()
        usage = (await stage.end(run)).result.usage
        assert (usage.model_calls, usage.unjournalled) == (3, 2)
