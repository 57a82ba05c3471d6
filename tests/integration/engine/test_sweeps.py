"""The same short run, cut off at every moment of its life: whatever was under way, the next start finishes it."""

import asyncio
from pathlib import Path

import pytest

from roadworthy.domain.event import ContentDelta, RunEnded
from roadworthy.domain.run import Run, RunStatus
from roadworthy.ports.runtime import Completed, Progress
from roadworthy.runtimes.scripted import Script, ScriptedRuntime
from tests.integration.engine.stage import BOUND, Stage, Witness, call, fresh, open_stage, turns

MOMENTS = range(2, 38, 2)
SHORT: Script = (
    ContentDelta(message_id="m1", text="one"),
    call("c1"),
    Progress(),
    ContentDelta(message_id="m2", text="two"),
    call("c2"),
    Progress(),
    Completed(response="done", output=None, structured_response=None),
)


async def cut(file: Path, runtime: ScriptedRuntime, witness: Witness, moment: int, *, drain: bool) -> Run:
    """Submit a run and end the process so many turns of the loop later."""
    # Before the first turn the run is refused, see ``test_drain.py``.
    async with open_stage(file, runtime=runtime, witness=witness) as stage:
        await turns(10)
        new = stage.run()
        async with asyncio.TaskGroup() as group:
            group.create_task(stage.submit(new))
            await turns(moment)
            if drain:
                await stage.worker.drain()
        return await stage.row(new)


async def checked(stage: Stage, run: Run) -> Run:
    """The run's end, after a look at its whole log."""
    ended = await stage.end(run)
    assert (ended.status, ended.result.response) == (RunStatus.SUCCESS, "done")
    assert ended.result.usage.model_calls == len(await stage.calls(run))
    events = await stage.events(run)
    assert [isinstance(event.body, RunEnded) for event in events].count(True) == 1
    for attempt in range(1, ended.attempt + 1):
        numbers = [event.id.n for event in events if event.id.attempt == attempt]
        assert numbers == list(range(1, len(numbers) + 1))
    return ended


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_run_survives_a_crash_at_any_moment(template: Path, tmp_path: Path, moment: int) -> None:
    file, runtime, witness = fresh(template, tmp_path), ScriptedRuntime(default=SHORT), Witness()
    run = await cut(file, runtime, witness, moment, drain=False)
    async with asyncio.timeout(BOUND), open_stage(file, runtime=runtime, witness=witness) as stage:
        ended = await checked(stage, run)
        assert ended.losses == stage.revived
        # A call whose end the dying process had just heard of may be missing.
        assert set(await stage.calls(run)) <= {"c1", "c2"}
    assert len(witness.finished) <= 1


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_run_survives_a_drain_at_any_moment_without_a_loss(template: Path, tmp_path: Path, moment: int) -> None:
    file, runtime, witness = fresh(template, tmp_path), ScriptedRuntime(default=SHORT), Witness()
    run = await cut(file, runtime, witness, moment, drain=True)
    assert run.status is not RunStatus.RUNNING
    async with asyncio.timeout(BOUND), open_stage(file, runtime=runtime, witness=witness) as stage:
        assert (await checked(stage, run)).losses == stage.revived == 0
        assert await stage.calls(run) == ["c1", "c2"]
    assert len(witness.finished) == 1
