"""Failures around an attempt: whatever breaks, the run ends once, its readers hear of it, and the worker lives."""

import asyncio
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from roadworthy.domain.audit import Actor
from roadworthy.domain.errors import (
    LimitReached,
    ProviderUnavailable,
    RoadworthyError,
    StorageFull,
    StorageUnavailable,
)
from roadworthy.domain.event import AttemptStarted, ContentDelta, CustomData, Event, RunEnded
from roadworthy.domain.run import Run, RunStatus
from roadworthy.ports.runtime import Caps, Completed, Drained, Execution, PlannedCall, Progress, Spending
from roadworthy.runtimes.scripted import Begun, Fail, Gate, Script, ScriptedRuntime, says
from tests.integration.engine.failing import Pause
from tests.integration.engine.stage import ANN, Stage, Witness, call, open_stage, turns, until
from tests.integration.engine.stubborn import UnopenableRuntime
from tests.support.money import a_budget

DONE = Completed(response="done", output=None, structured_response=None)
LOCKED = StorageUnavailable("the database is locked")


def outcome(run: Run) -> tuple[RunStatus, str | None]:
    return run.status, None if run.result.error is None else run.result.error.code


async def still_serves(stage: Stage) -> None:
    """The worker has all its slots and executes the next run; nothing is left in memory of the last one."""
    ended = await stage.ends([await stage.submit(stage.run(f"next-{number}")) for number in range(3)])
    assert {run.status for run in ended} == {RunStatus.SUCCESS}
    await until(lambda: not stage.worker.executing())
    await until(lambda: stage.stored_log.held == 0)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ProviderUnavailable("overloaded"), "provider_unavailable"),
        (LimitReached("too many steps"), "limit_reached"),
        (StorageFull("the disk is full"), "storage_full"),
    ],
)
async def test_an_error_of_the_agent_ends_its_run_with_its_code(
    database_file: Path, error: RoadworthyError, code: str
) -> None:
    runtime = ScriptedRuntime()
    runtime.script((ContentDelta(message_id="m", text="so far"), Fail(error=error)))
    async with open_stage(database_file, runtime=runtime) as stage:
        ended = await stage.end(await stage.submit(stage.run()))
        assert outcome(ended) == (RunStatus.ERROR, code)
        assert ended.result.response == "so far"
        assert stage.witness.failures == [error]
        assert stage.worker.provider_trouble() == ("overloaded" if code == "provider_unavailable" else None)
        await still_serves(stage)


async def test_a_providers_trouble_is_over_when_a_model_answers_again(database_file: Path) -> None:
    runtime = ScriptedRuntime()
    runtime.script((Fail(error=ProviderUnavailable("overloaded")),), says("no model"), (call("c"), DONE))
    async with open_stage(database_file, runtime=runtime) as stage:
        troubles: list[str | None] = []
        for _ in range(3):
            await stage.end(await stage.submit(stage.run()))
            await until(lambda: not stage.worker.executing())
            troubles.append(stage.worker.provider_trouble())
        assert troubles == ["overloaded", "overloaded", None]


@pytest.mark.parametrize(
    "script",
    [
        (Fail(error=ValueError("secret")),),
        (ContentDelta(message_id="m", text="no outcome"),),
        (Progress(), Drained()),  # nobody asked for that
    ],
)
async def test_a_bug_ends_the_run_without_its_words(database_file: Path, script: Script) -> None:
    runtime = ScriptedRuntime()
    runtime.script(script)
    async with open_stage(database_file, runtime=runtime) as stage:
        ended = await stage.end(await stage.submit(stage.run()))
        assert outcome(ended) == (RunStatus.ERROR, "agent_failed")
        assert ended.result.error is not None
        assert "secret" not in ended.result.error.message
        await still_serves(stage)


async def test_an_end_that_cannot_be_stored_is_stored_later_once(database_file: Path) -> None:
    async with open_stage(database_file, slots=1) as stage:
        stage.queue.before_finish.extend([LOCKED, StorageFull("the disk is full")])
        run = await stage.submit(stage.run())
        waiting = await stage.submit(stage.run("other"))
        ended = await stage.end(run)
        assert outcome(ended) == (RunStatus.SUCCESS, None)
        assert stage.witness.notes.count("write_retried") == 2
        assert stage.queue.finishes[:3] == [RunStatus.SUCCESS] * 3
        assert isinstance((await stage.events(run))[-1].body, RunEnded)
        await stage.end(waiting)
        assert [one.run_id for one in stage.witness.finished] == [run.run_id, waiting.run_id]


@pytest.mark.parametrize("error", [LOCKED, ValueError("a bug")])
async def test_a_run_whose_log_does_not_open_ends(database_file: Path, error: Exception) -> None:
    async with open_stage(database_file) as stage:
        stage.log.before_open.append(error)
        run = await stage.submit(stage.run())
        ended = await stage.end(run)
        assert outcome(ended) == (RunStatus.ERROR, "storage" if error is LOCKED else "internal")
        assert ended.result.error is not None
        assert "bug" not in ended.result.error.message
        assert [type(event.body) for event in await stage.events(run)] == [RunEnded]
        await still_serves(stage)


@pytest.mark.parametrize("error", [LOCKED, ValueError("a bug")])
async def test_a_run_whose_agent_cannot_be_prepared_ends(database_file: Path, error: Exception) -> None:
    runtime = UnopenableRuntime()
    async with open_stage(database_file, runtime=runtime) as stage:
        runtime.error = error
        run = await stage.submit(stage.run())
        ended = await stage.end(run)
        assert outcome(ended) == (RunStatus.ERROR, "storage" if error is LOCKED else "internal")
        runtime.error = None
        await still_serves(stage)


async def test_a_result_that_cannot_be_stored_ends_its_run_as_an_internal_error(database_file: Path) -> None:
    runtime = ScriptedRuntime()
    runtime.script((call("paid"), Completed(response="x", output=_Unstorable(), structured_response=None)))  # pyright: ignore[reportArgumentType] -- no JSON is the point
    async with open_stage(database_file, runtime=runtime) as stage:
        run = await stage.submit(stage.run())
        ended = await stage.end(run)
        assert outcome(ended) == (RunStatus.ERROR, "internal")
        assert ended.result.usage.model_calls == 1
        assert await stage.calls(run) == ["paid"]
        await still_serves(stage)


class _Unstorable:
    pass


async def test_a_run_that_is_given_up_frees_what_it_held_and_pays_for_what_was_under_way(database_file: Path) -> None:
    runtime = WastefulRuntime()
    runtime.script((Begun(call=call("paid")), Fail(error=LimitReached("too many steps"))))
    async with open_stage(database_file, runtime=runtime, witness=Broken(bugs=1)) as stage:
        budget = await stage.policies.set_budget(ANN.tenant, a_budget(1000), Actor(name="test"))
        run = await stage.submit(stage.run())
        assert outcome(await stage.end(run)) == (RunStatus.ERROR, "internal")
        await until(lambda: stage.ledger.releases == [run.run_id])
        await still_serves(stage)
        calls = await stage.ledger.of_run(run.owner, run.run_id)
        assert [(one.call_id, one.cost_nanos) for one in calls] == [("paid", 11)]
        (balance,) = await stage.ledger.balances(ANN.tenant, [budget.period_of(ANN.tenant, stage.clock.now())])
        assert (balance.spent_nanos, balance.reserved_nanos) == (11, 0)


class WastefulRuntime(ScriptedRuntime):
    """Reserves money for a call that it never makes, in each run of a script."""

    @asynccontextmanager
    async def execution(
        self,
        run: Run,
        *,
        caps: Caps,
        first_on_thread: bool,
        spending: Spending | None = None,
        told: Collection[str] = (),
    ) -> AsyncGenerator[Execution]:
        """See the port."""
        if spending is not None and run.thread_id == "thread":
            call = PlannedCall(call_id="x", node="", provider="", model="", input_tokens=1, max_output_tokens=1)
            await spending.reserve(call)
        async with super().execution(
            run, caps=caps, first_on_thread=first_on_thread, spending=spending, told=told
        ) as execution:
            yield execution


@dataclass
class Broken(Witness):
    """A Telemetry with a number of bugs."""

    bugs: int = 0

    def attempt_failed(self, run: Run, error: BaseException) -> None:
        """See the port."""
        super().attempt_failed(run, error)
        if self.bugs:
            self.bugs -= 1
            raise ValueError("a bug")


async def test_a_run_that_cannot_even_be_given_up_does_not_take_the_worker_with_it(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        stage.queue.before_finish.extend([ValueError("a bug"), ValueError("another")])
        run = await stage.submit(stage.run())
        await until(lambda: not stage.queue.before_finish)
        await until(lambda: not stage.worker.executing())
        assert (await stage.row(run)).status is RunStatus.RUNNING
        ended = await stage.ends([await stage.submit(stage.run("other")) for _ in range(3)])
        assert {one.status for one in ended} == {RunStatus.SUCCESS}
        assert [str(failure) for failure in stage.witness.failures][-1] == "another"


async def test_a_claim_that_fails_is_tried_again(database_file: Path) -> None:
    runtime = ScriptedRuntime()
    async with open_stage(database_file, runtime=runtime) as crashed:
        crashed.queue.before_finish.append(Pause())
        run = await crashed.submit(crashed.run())
        await until(lambda: not crashed.queue.before_finish)
    async with open_stage(database_file, runtime=runtime, before_claim=[LOCKED, LOCKED]) as stage:
        await until(lambda: len(stage.queue.before_claim) < 2)
        await stage.submit(stage.run("other"))
        await stage.submit(stage.run("another"))
        assert outcome(await stage.end(run)) == (RunStatus.SUCCESS, None)


async def test_an_accept_that_fails_gives_its_slot_back(database_file: Path) -> None:
    async with open_stage(database_file, slots=1) as stage:
        await turns()
        stage.queue.before_accept.append(LOCKED)
        with pytest.raises(StorageUnavailable):
            await stage.submit(stage.run())
        assert (await stage.submit(stage.run())).status is RunStatus.RUNNING


async def test_a_run_does_not_start_after_the_worker_has_closed(database_file: Path) -> None:
    pause = Pause()
    async with asyncio.TaskGroup() as group:
        async with open_stage(database_file) as stage:
            await turns()
            stage.queue.after_accept.append(pause)
            run = stage.run()
            submitted = group.create_task(stage.submit(run))
            await pause.reached.wait()
            asyncio.get_running_loop().call_later(0.05, pause.opened.set)
        assert submitted.result().run_id == run.run_id
    assert stage.started() == []
    async with open_stage(database_file) as again:
        assert outcome(await again.end(run)) == (RunStatus.SUCCESS, None)


async def test_events_keep_their_order_and_number_whatever_the_agent_says(database_file: Path) -> None:
    script = (*(CustomData(data=number) for number in range(50)), Progress(), DONE)
    async with open_stage(database_file, runtime=ScriptedRuntime(default=script)) as stage:
        run = await stage.submit(stage.run())
        live: list[Event] = await stage.events(run)
        await stage.end(run)
        await until(lambda: stage.stored_log.held == 0)
        assert await stage.events(run) == live
        assert [event.id.n for event in live] == list(range(1, len(live) + 1))


async def test_a_later_attempt_whose_log_does_not_open_ends_too(database_file: Path) -> None:
    runtime = ScriptedRuntime(default=(ContentDelta(message_id="m", text="x"), Gate(name="never")))
    async with open_stage(database_file, runtime=runtime) as crashed:
        run = await crashed.submit(crashed.run())
        await crashed.shown(run, ContentDelta)
    async with open_stage(database_file, runtime=runtime, before_open=[LOCKED]) as stage:
        ended = await stage.end(run)
        assert outcome(ended) == (RunStatus.ERROR, "storage")
        bodies = [event.body for event in await stage.events(run)]
        assert not any(isinstance(body, AttemptStarted) for body in bodies)
        assert [isinstance(body, RunEnded) for body in bodies].count(True) == 1
