"""Every runtime obeys ``ports/runtime.py``: the real one and the scripted one, by the same tests."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt

from roadworthy.domain.errors import AgentFailed, BudgetExceeded, InvalidRequest, LeaseLost
from roadworthy.domain.event import ContentDelta, InterruptRaised
from roadworthy.domain.ids import AgentName
from roadworthy.domain.review import RunAgain
from roadworthy.domain.run import InputKind, Interrupt
from roadworthy.domain.usage import ModelCall
from roadworthy.ports.runtime import PATIENCE, AgentRuntime, Completed, Drained, Paused, PlannedCall, Progress
from roadworthy.runtimes.scripted import Begun, Fail, Gate, ScriptedRuntime, says
from tests.conformance.runtime.playing import (
    BOUND,
    Bench,
    SystemClock,
    a_run,
    marked,
    play,
    prepared,
    ref_of,
    retried,
)
from tests.support.scripted_model import ScriptedChatModel, ScriptedTurn

Opened: TypeAlias = Callable[[], Any]


class Subject:
    """A runtime with an agent that does, in ``does``, what each test needs, and ``open`` to let it go on."""

    def __init__(
        self, runtime: AgentRuntime, agent: AgentName, does: Callable[[str], None], gate: asyncio.Event
    ) -> None:
        self.runtime = runtime
        self.agent = agent
        self.does = does
        self.gate = gate


@asynccontextmanager
async def _langgraph(tmp_path: Path) -> AsyncGenerator[Subject]:
    gate = asyncio.Event()
    todo: list[str] = []
    speaker = ScriptedChatModel(turns=(ScriptedTurn(text="Hello."),))
    endless = ScriptedChatModel(turns=(ScriptedTurn(text="word " * 500),), ms_per_token=20)

    async def first(state: MessagesState) -> dict[str, Any]:
        what = todo[0]
        if what == "fail":
            raise RuntimeError("secret")
        if what == "hang":
            await endless.ainvoke(state["messages"])
        if what == "ask":
            return {"messages": [AIMessage(f"you said {interrupt('well?')}")]}
        return {}

    async def second(state: MessagesState) -> dict[str, Any]:
        if todo[0] == "ask":
            return {}
        return {"messages": [await speaker.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState).add_node("first", first).add_node("second", second)
    compiled = graph.add_edge(START, "first").add_edge("first", "second").compile()
    async with Bench(folder=tmp_path).serve(compiled) as runtime:
        yield Subject(runtime, AgentName("agent"), lambda what: todo.insert(0, what), gate)


@asynccontextmanager
async def _scripted(_: Path) -> AsyncGenerator[Subject]:
    runtime = ScriptedRuntime()
    now = SystemClock().now()
    call = ModelCall(
        call_id="call", node="", provider="", model="", tokens=a_run().result.usage.tokens, estimated=True,
        outcome="cancelled", started_at=now, finished_at=now,
    )  # fmt: skip
    asked = (Interrupt(id="i", value="well?"),)
    scripts: dict[str, Any] = {
        "speak": (Progress(), *says("Hello.")),
        "fail": (Fail(error=AgentFailed("the agent failed with RuntimeError")),),
        "hang": (Begun(call=call), ContentDelta(message_id="m", text="word"), Gate(name="never")),
        "ask": (Progress(), InterruptRaised(interrupts=asked), Paused(response="", output={})),
        "answered": says("you said yes"),
    }
    yield Subject(runtime, AgentName("scripted"), lambda what: runtime.script(scripts[what]), asyncio.Event())


@pytest.fixture(params=[_langgraph, _scripted], ids=["langgraph", "scripted"])
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Subject]:
    async with request.param(tmp_path) as opened:
        yield opened


def message(subject: Subject, text: str = "hi") -> Any:
    return a_run(subject.runtime.message_input(subject.agent, text), agent=subject.agent)


async def test_agents_are_found_by_name(subject: Subject) -> None:
    (agent,) = subject.runtime.agents()
    assert subject.runtime.find_agent(agent.name) == agent
    assert subject.runtime.find_agent(AgentName("nobody")) is None
    assert agent.accepts_message


@pytest.mark.parametrize("content", [[], [1], [{"text": "no type"}], {"type": "text"}, 7, None])
async def test_a_malformed_message_is_refused(subject: Subject, content: Any) -> None:
    with pytest.raises(InvalidRequest):
        subject.runtime.message_input(subject.agent, content)


async def test_content_blocks_are_a_message(subject: Subject) -> None:
    subject.does("speak")
    blocks = [{"type": "text", "text": "look"}, {"type": "image", "base64": "aaaa", "mime_type": "image/png"}]
    run = a_run(subject.runtime.message_input(subject.agent, blocks), agent=subject.agent)
    assert (await play(subject.runtime, run)).completed.response == "Hello."
    asked = (await subject.runtime.thread_state(subject.agent, ref_of(run))).messages[0]
    assert asked.content == blocks


@pytest.mark.parametrize("payload", ["text", 7, None, []])
async def test_an_input_that_is_no_state_is_refused(subject: Subject, payload: Any) -> None:
    with pytest.raises(InvalidRequest):
        subject.runtime.check_input(subject.agent, payload, None)


async def test_a_context_that_nobody_takes_is_refused(subject: Subject) -> None:
    with pytest.raises(InvalidRequest):
        subject.runtime.check_input(subject.agent, subject.runtime.message_input(subject.agent, "hi"), {"a": 1})


async def test_a_run_ends_with_its_outcome_and_leaves_its_messages(subject: Subject) -> None:
    subject.does("speak")
    run = message(subject)
    played = await play(subject.runtime, run)
    assert isinstance(played.outcome, Completed)
    assert played.text == played.outcome.response == "Hello."
    state = await subject.runtime.thread_state(subject.agent, ref_of(run))
    assert [(one.role, one.content) for one in state.messages] == [("user", "hi"), ("assistant", "Hello.")]


async def test_a_thread_without_runs_is_empty(subject: Subject) -> None:
    run = message(subject)
    assert (await subject.runtime.thread_state(subject.agent, ref_of(run))).messages == ()
    assert await subject.runtime.progress_mark(run) is None
    await subject.runtime.erase_thread(ref_of(run))


async def test_a_thread_without_calls_in_doubt_has_no_reviews(subject: Subject) -> None:
    subject.does("speak")
    run = message(subject)
    await play(subject.runtime, run)
    assert list(await subject.runtime.open_reviews(ref_of(run))) == []
    assert await subject.runtime.resolve(ref_of(run), "call", RunAgain()) is False


async def test_progress_changes_the_mark(subject: Subject) -> None:
    subject.does("speak")
    run = message(subject)
    await play(subject.runtime, run)
    mark = await subject.runtime.progress_mark(run)
    assert mark is not None
    assert await subject.runtime.progress_mark(run) == mark
    subject.does("speak")
    await play(subject.runtime, message(subject))
    assert await subject.runtime.progress_mark(run) != mark


async def test_only_a_resume_has_a_resume_mark(subject: Subject) -> None:
    assert await subject.runtime.resume_mark(message(subject)) is None
    resume = a_run("yes", kind=InputKind.RESUME, agent=subject.agent)
    assert isinstance(await subject.runtime.resume_mark(resume), str)


async def test_a_failure_is_an_error_of_the_domain_without_foreign_text(subject: Subject) -> None:
    subject.does("fail")
    played = await play(subject.runtime, message(subject))
    assert isinstance(played.error, AgentFailed)
    assert "RuntimeError" in played.error.message
    assert "secret" not in played.error.message
    assert played.outcome is None


async def test_a_run_of_an_agent_that_is_gone_fails_and_its_thread_shows_nothing(subject: Subject) -> None:
    subject.does("speak")
    run = replace(message(subject), agent=AgentName("gone"))
    for attempt in (run, retried(run)):
        played = await play(subject.runtime, attempt)
        assert isinstance(played.error, AgentFailed)
        assert played.error.message == "the agent gone is no longer served"
        await subject.runtime.surviving(attempt, {"message": "said"})
    state = await subject.runtime.thread_state(run.agent, ref_of(run))
    assert (state.messages, state.values) == ((), None)


async def test_a_pause_is_told_and_a_resume_goes_on(subject: Subject) -> None:
    subject.does("ask")
    played = await play(subject.runtime, message(subject))
    assert isinstance(played.outcome, Paused)
    assert list(played.questions.values()) == ["well?"]
    subject.does("ask" if subject.agent == "agent" else "answered")
    resume = await marked(subject.runtime, a_run("yes", kind=InputKind.RESUME, agent=subject.agent))
    assert (await play(subject.runtime, resume)).completed.response == "you said yes"


async def test_a_drained_run_goes_on_in_its_next_attempt(subject: Subject) -> None:
    subject.does("speak")
    run = message(subject)
    async with asyncio.timeout(BOUND), prepared(subject.runtime, run) as execution:
        execution.drain()
        events = [event async for event in execution.events()]
    assert isinstance(events[-1], Drained)
    ended = await play(subject.runtime, retried(run))
    assert ended.completed.response == "Hello."
    state = await subject.runtime.thread_state(subject.agent, ref_of(run))
    assert [one.role for one in state.messages] == ["user", "assistant"]


async def test_a_fenced_attempt_ends_as_lost(subject: Subject) -> None:
    subject.does("speak")
    run = message(subject)
    lost = await play(subject.runtime, run, on_event=lambda execution, _: execution.fence())
    assert isinstance(lost.error, LeaseLost)
    subject.does("speak")
    ended = await play(subject.runtime, retried(run))
    assert ended.completed.response == "Hello."


async def test_a_cancelled_attempt_owes_its_open_call_and_settles(subject: Subject) -> None:
    subject.does("hang")
    async with asyncio.timeout(BOUND), prepared(subject.runtime, message(subject)) as execution:
        begun = asyncio.Event()

        async def consume() -> None:
            async for event in execution.events():
                if isinstance(event, ContentDelta):
                    begun.set()

        async with asyncio.TaskGroup() as group:
            task = group.create_task(consume())
            await begun.wait()
            task.cancel()
        assert [call.outcome for call in execution.open_calls()] == ["cancelled"]
        await execution.settled()
        assert execution.settled_now


class Refusing:
    """A Spending with nothing left."""

    def __init__(self) -> None:
        self.asked: list[PlannedCall] = []

    @property
    def applies(self) -> bool:
        return True

    async def budgets_fit(self) -> bool:
        return True

    async def reserve(self, call: PlannedCall, *, patience: timedelta | None = PATIENCE) -> None:
        self.asked.append(call)
        raise BudgetExceeded("nothing is left")

    def admit(self, call: PlannedCall) -> bool:
        raise AssertionError("nobody is in a hurry")

    def ended(self, call: ModelCall) -> None:
        raise AssertionError("no call was made")


async def test_a_call_for_which_there_is_no_money_is_not_made(subject: Subject) -> None:
    subject.does("hang")
    spending = Refusing()
    played = await play(subject.runtime, message(subject), spending=spending)
    assert isinstance(played.error, BudgetExceeded)
    assert len(spending.asked) == 1
    assert played.of(ModelCall) == []
    assert played.open_calls == ()


class Unlimited(Refusing):
    """A Spending without a budget."""

    @property
    def applies(self) -> bool:
        return False

    async def budgets_fit(self) -> bool:
        return False


async def test_without_a_budget_nothing_is_reserved(subject: Subject) -> None:
    subject.does("hang")
    spending = Unlimited()
    prepared_run = prepared(subject.runtime, message(subject), spending=spending)
    async with asyncio.timeout(BOUND), prepared_run as execution, aclosing(execution.events()) as events:
        async for event in events:
            if isinstance(event, ContentDelta):
                break
    assert spending.asked == []


async def test_a_runtime_says_when_it_is_ready(subject: Subject) -> None:
    assert await subject.runtime.ready() is None
