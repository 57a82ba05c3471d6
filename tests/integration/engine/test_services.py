"""What callers ask of runs and threads, on the real storage: resume, idempotency, erasure, and who may do it."""

import asyncio
from pathlib import Path

import pytest

from roadworthy.domain.errors import (
    AgentMismatch,
    BudgetExceeded,
    Conflict,
    IdempotencyMismatch,
    InvalidRequest,
    LimitReached,
    NotFound,
    PermissionDenied,
    PriceUnknown,
    ProviderUnavailable,
    RoadworthyError,
    ThreadBusy,
)
from roadworthy.domain.event import ContentDelta, InterruptRaised
from roadworthy.domain.ids import AgentName
from roadworthy.domain.json import JsonValue
from roadworthy.domain.principal import Principal, Scope
from roadworthy.domain.run import DisconnectPolicy, InputKind, Interrupt, MultitaskStrategy, Run, RunStatus
from roadworthy.ports.queue import Accepted, IdempotencyRecord
from roadworthy.ports.runtime import Completed, Paused, Progress
from roadworthy.runtimes.scripted import DEFAULT_AGENT, Fail, Gate, Script, ScriptedRuntime
from roadworthy.services.runs import CreateRun
from tests.integration.engine.stage import ANN, Stage, call, caller, open_stage, owner, ref_of, until

DONE = Completed(response="done", output=None, structured_response=None)
HELD: Script = (ContentDelta(message_id="m", text="begun"), Gate(name="g"), Progress(), DONE)
ASKS: Script = (
    Progress(),
    InterruptRaised(interrupts=(Interrupt(id="q", value="sure?"),)),
    Paused(response="", output=None),
)
READ_ONLY = Principal(owner=ANN, scopes=frozenset({Scope.RUNS_READ}))


def command(
    thread: str | None = "thread",
    *,
    agent: str | None = None,
    key: str | None = None,
    body: str = "body",
    strategy: MultitaskStrategy = MultitaskStrategy.ENQUEUE,
) -> CreateRun:
    return CreateRun(
        agent=agent,
        thread_id=thread,
        message="hello",
        has_input=False,
        request_id="request",
        multitask_strategy=strategy,
        idempotency=None if key is None else IdempotencyRecord(key=key, body_hash=body),
    )


async def resume(
    stage: Stage, run: Run, *, key: str | None = None, who: Principal | None = None, value: JsonValue = "yes"
) -> Accepted:
    return await stage.runs.resume(
        who or caller(),
        run.run_id,
        value,
        request_id="request",
        idempotency=None if key is None else IdempotencyRecord(key=key, body_hash="body"),
        on_disconnect=DisconnectPolicy.CONTINUE,
    )


async def ended(stage: Stage, script: Script) -> Run:
    """A run that has played the script to its end."""
    stage.runtime.script(script)
    return await stage.end((await stage.runs.create(caller(), command())).run)


async def test_an_interrupted_run_goes_on_in_a_new_run_with_the_answer(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        asked = await ended(stage, ASKS)
        assert asked.status is RunStatus.INTERRUPTED
        assert asked.result.interrupts == (Interrupt(id="q", value="sure?"),)
        accepted = await resume(stage, asked)
        request = accepted.run.request
        assert (request.kind, request.payload, accepted.run.ord) == (InputKind.RESUME, "yes", asked.ord + 1)
        final = await stage.end(accepted.run)
        assert (final.status, final.resume_mark) == (RunStatus.SUCCESS, "1")


@pytest.mark.parametrize(
    ("error", "resumable"),
    [
        (LimitReached("too many steps"), True),
        (BudgetExceeded("used up"), True),
        (PriceUnknown("nobody knows"), True),
        (ProviderUnavailable("overloaded"), False),
    ],
)
async def test_only_what_a_limit_stopped_can_be_continued(
    database_file: Path, error: RoadworthyError, *, resumable: bool
) -> None:
    async with open_stage(database_file) as stage:
        failed = await ended(stage, (Progress(), Fail(error=error)))
        if not resumable:
            with pytest.raises(Conflict):
                await resume(stage, failed)
            return
        accepted = await resume(stage, failed)
        assert (accepted.run.request.kind, accepted.run.request.payload) == (InputKind.CONTINUE, None)
        assert (await stage.end(accepted.run)).status is RunStatus.SUCCESS


@pytest.mark.parametrize("value", ["yes", None, {}, {"nobody": 1}, {"a": 1, "nobody": 2}, ["a"]])
async def test_an_answer_that_fits_no_question_is_refused_and_uses_nothing_up(
    database_file: Path, value: JsonValue
) -> None:
    two = (Interrupt(id="a", value="first?"), Interrupt(id="b", value="second?"))
    async with open_stage(database_file) as stage:
        asked = await ended(stage, (InterruptRaised(interrupts=two), Paused(response="", output=None)))
        with pytest.raises(InvalidRequest, match="a, b"):
            await resume(stage, asked, value=value)
        accepted = await resume(stage, asked, value={"b": "no"})
        assert accepted.run.ord == asked.ord + 1
        await stage.end(accepted.run)


async def test_a_run_that_waits_for_nothing_cannot_be_resumed(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        done = await ended(stage, (DONE,))
        with pytest.raises(Conflict):
            await resume(stage, done)
        stage.runtime.script(HELD)
        running = (await stage.runs.create(caller(), command())).run
        with pytest.raises(Conflict):
            await resume(stage, running)


async def test_an_old_question_cannot_be_answered(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        asked = await ended(stage, ASKS)
        await ended(stage, (DONE,))
        with pytest.raises(Conflict):
            await resume(stage, asked)


async def test_of_two_answers_at_once_one_is_taken(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        asked = await ended(stage, ASKS)
        outcomes = await asyncio.gather(*(resume(stage, asked) for _ in range(5)), return_exceptions=True)
        taken = [one for one in outcomes if isinstance(one, Accepted)]
        assert len(taken) == 1
        assert all(isinstance(one, Conflict) for one in outcomes if one is not taken[0])
        assert (await stage.end(taken[0].run)).status is RunStatus.SUCCESS


async def test_an_answer_that_is_sent_again_is_the_same_run(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        asked = await ended(stage, ASKS)
        first = await resume(stage, asked, key="k")
        await stage.end(first.run)
        again = await resume(stage, asked, key="k")
        assert (again.run.run_id, again.replayed, again.run.status) == (first.run.run_id, True, RunStatus.SUCCESS)


async def test_one_key_many_times_at_once_is_one_run(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        accepted = await asyncio.gather(*(stage.runs.create(caller(), command(None, key="k")) for _ in range(50)))
        assert len({one.run.run_id for one in accepted}) == 1
        assert [one.replayed for one in accepted].count(False) == 1
        await stage.end(accepted[0].run)
        assert len(stage.started()) == 1
        with pytest.raises(IdempotencyMismatch):
            await stage.runs.create(caller(), command(None, key="k", body="another"))
        other = await stage.runs.create(caller(owner("acme", "bob")), command(None, key="k"))
        assert not other.replayed


async def test_a_busy_thread_is_refused_to_who_asks_for_that(database_file: Path) -> None:
    async with open_stage(database_file, runtime=ScriptedRuntime(default=HELD)) as stage:
        await stage.runs.create(caller(), command())
        with pytest.raises(ThreadBusy):
            await stage.runs.create(caller(), command(strategy=MultitaskStrategy.REJECT))


async def test_another_user_sees_no_run_and_no_thread(database_file: Path) -> None:
    stranger = caller(owner("other", "ann"))
    async with open_stage(database_file) as stage:
        asked = await ended(stage, ASKS)
        for attempt in (
            stage.runs.get(stranger, asked.run_id),
            stage.runs.cancel(stranger, asked.run_id),
            resume(stage, asked, who=stranger),
            stage.threads.get(stranger, "thread"),
            stage.threads.erase(stranger, "thread"),
        ):
            with pytest.raises(NotFound):
                await attempt
        assert (await stage.threads.list(stranger, limit=10, cursor=None)).items == []
        own = await stage.runs.create(stranger, command())
        assert own.run.ord == 1


@pytest.mark.parametrize("run_id", ["", "x", "0" * 31, "G" * 32, "0" * 32, "../" + "0" * 29])
async def test_ids_that_are_none_belong_to_nobody(database_file: Path, run_id: str) -> None:
    async with open_stage(database_file) as stage:
        with pytest.raises(NotFound):
            await stage.runs.get(caller(), run_id)
        with pytest.raises(NotFound):
            await stage.threads.get(caller(), run_id)


async def test_a_key_without_the_scope_may_not(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        run = await ended(stage, ASKS)
        assert await stage.runs.get(READ_ONLY, run.run_id) == run
        assert (await stage.threads.get(READ_ONLY, "thread")).thread.ref == ref_of(run)
        writer = Principal(owner=ANN, scopes=frozenset({Scope.RUNS_WRITE}))
        for attempt in (
            stage.runs.create(READ_ONLY, command()),
            stage.runs.cancel(READ_ONLY, run.run_id),
            resume(stage, run, who=READ_ONLY),
            stage.threads.erase(READ_ONLY, "thread"),
            stage.runs.get(writer, run.run_id),
            stage.threads.get(writer, "thread"),
        ):
            with pytest.raises(PermissionDenied):
                await attempt


async def test_a_key_bound_to_other_agents_may_not_use_this_one(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        run = await ended(stage, ASKS)
        bound = Principal(owner=ANN, scopes=caller().scopes, agents=frozenset({AgentName("another")}))
        with pytest.raises(PermissionDenied):
            await stage.runs.create(bound, command(agent=DEFAULT_AGENT.name))
        with pytest.raises(PermissionDenied):
            await resume(stage, run, who=bound)
        with pytest.raises(NotFound):
            await stage.runs.create(bound, command())


async def test_a_thread_stays_with_the_agent_of_its_first_run(database_file: Path) -> None:
    second = type(DEFAULT_AGENT)(name=AgentName("second"), description="", accepts_message=True, input_schema={})
    async with open_stage(database_file, runtime=ScriptedRuntime(agents=(DEFAULT_AGENT, second))) as stage:
        await stage.end((await stage.runs.create(caller(), command())).run)
        with pytest.raises(AgentMismatch):
            await stage.runs.create(caller(), command(agent="second"))
        page = await stage.store.list_of_thread(ANN, ref_of(stage.run()).thread_id, limit=10, cursor=None)
        assert len(page.items) == 1


async def test_a_bad_input_stores_nothing(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        for bad in (command("no spaces"), command("x" * 129), command(""), _input(["no object"])):
            with pytest.raises(InvalidRequest):
                await stage.runs.create(caller(), bad)
        assert (await stage.store.list_of_tenant(None, status=None, limit=10, cursor=None)).items == []


def _input(payload: list[str]) -> CreateRun:
    return CreateRun(agent=None, thread_id=None, input=payload, has_input=True, request_id="request")


async def test_the_model_calls_of_a_run_are_shown_to_its_user_alone(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        run = await ended(stage, (call("first"), call("second"), DONE))
        assert [one.call_id for one in await stage.runs.calls(READ_ONLY, run.run_id)] == ["first", "second"]
        for stranger in (caller(owner("acme", "bob")), caller(owner("other", "ann"))):
            with pytest.raises(NotFound):
                await stage.runs.calls(stranger, run.run_id)
        with pytest.raises(PermissionDenied):
            await stage.runs.calls(Principal(owner=ANN, scopes=frozenset()), run.run_id)


async def test_an_erased_thread_leaves_nothing_but_its_ledger_and_can_begin_again(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        run = await stage.end((await stage.runs.create(caller(), command(key="k"))).run)
        assert (await stage.threads.get(caller(), "thread")).messages
        await stage.threads.erase(caller(), "thread")
        for attempt in (stage.threads.get(caller(), "thread"), stage.threads.erase(caller(), "thread")):
            with pytest.raises(NotFound):
                await attempt
        with pytest.raises(NotFound):
            await stage.runs.get(caller(), run.run_id)
        new = await stage.runs.create(caller(), command(key="k"))
        assert (new.replayed, new.run.ord) == (False, 1)
        await stage.end(new.run)
        assert len((await stage.threads.get(caller(), "thread")).messages) == 2


@pytest.mark.parametrize("waiting", [False, True])
async def test_a_thread_with_an_unfinished_run_is_not_erased_and_loses_nothing(
    database_file: Path, *, waiting: bool
) -> None:
    runtime = ScriptedRuntime()
    async with open_stage(database_file, slots=1, runtime=runtime) as stage:
        await ended(stage, (ContentDelta(message_id="m", text="kept"), Progress(), DONE))
        runtime.script(HELD)
        running = (await stage.runs.create(caller(), command("other" if waiting else "thread"))).run
        await stage.shown(running, ContentDelta)
        last = (await stage.runs.create(caller(), command())).run if waiting else running
        with pytest.raises(ThreadBusy):
            await stage.threads.erase(caller(), "thread")
        messages = (await stage.threads.get(caller(), "thread")).messages
        assert [message.content for message in messages] == ["hello", "kept"]
        runtime.gate("g").set()
        await stage.ends([running, last])
        await until(lambda: not stage.worker.executing())
        await stage.threads.erase(caller(), "thread")
