"""What a replayed answer looks like: to the state as if the call had been made, to the client as text, to the ledger as
the call that was paid.
"""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt
from pydantic import BaseModel, SecretStr

from roadworthy.domain.errors import AgentFailed, StorageUnavailable
from roadworthy.domain.event import ContentDelta
from roadworthy.domain.run import InputKind
from roadworthy.domain.usage import ModelCall
from roadworthy.ports.runtime import Caps, ModelReplayed
from tests.conformance.runtime.playing import AGENT, CAPS, Bench, a_run, marked, play, prepared, retried
from tests.conformance.runtime.replaying import (
    NumberedModel,
    dies_after,
    graph_of,
    kept,
    numbered,
    output_of,
    remembering,
    replayed,
    rows_in,
)
from tests.support.openai_provider import MODEL, OpenAIProvider
from tests.support.provider.fake import FakeProvider
from tests.support.provider.script import ToolUse, Turn


class Tree(BaseModel):
    """A tree."""

    name: str


@tool
def fell(tree: str) -> str:
    """Fell a tree."""
    return f"{tree} is down"


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as running:
        yield running


def claude(provider: FakeProvider) -> ChatAnthropic:
    return ChatAnthropic(
        model_name="claude-sonnet-5", base_url=provider.url, api_key=SecretStr("good"), max_retries=0, timeout=None,
        stop=None,
    )  # fmt: skip


async def test_a_replayed_answer_is_in_every_part_the_one_that_was_bought(
    bench: Bench, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.script(Turn(text="The oak is old.", thinking="Hm.", cache_read_tokens=7))
    seen: list[AIMessage] = []
    async with bench.serve(remembering(claude(provider), seen)) as runtime:
        run = a_run(runtime.message_input(AGENT, "Which?"))
        with dies_after(runtime, None, monkeypatch, responses=1) as death:
            first = await play(runtime, run)
        assert "keep_response" not in death.refused
        second = await play(runtime, retried(run))
    assert len(provider.ledger) == 1
    assert seen[0] == seen[1]
    assert seen[0].id
    assert seen[0].usage_metadata is not None
    assert type(seen[0]) is type(seen[1])
    assert replayed(second) == kept(first) != []
    assert second.of(ModelCall) == []
    assert second.text == first.text == second.completed.response == "The oak is old."
    assert [event.message_id for event in second.of(ContentDelta)] == [seen[0].id]


async def test_an_openai_answer_is_replayed_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[AIMessage] = []
    async with OpenAIProvider() as provider:
        model = ChatOpenAI(model=MODEL, base_url=provider.url, api_key=SecretStr("good"), max_retries=0)
        async with bench.serve(remembering(model, seen)) as runtime:
            run = a_run(runtime.message_input(AGENT, "Which?"))
            with dies_after(runtime, None, monkeypatch, responses=1):
                first = await play(runtime, run)
            second = await play(runtime, retried(run))
    assert seen[0] == seen[1]
    assert replayed(second) == kept(first) != []


async def test_a_structured_answer_is_replayed(
    bench: Bench, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.script(Turn(tools=(ToolUse(name="Tree", args={"name": "oak"}),)))
    seen: list[Any] = []
    model = claude(provider).with_structured_output(Tree)

    async def ask(state: MessagesState) -> MessagesState:
        seen.append(await model.ainvoke(state["messages"]))
        return {"messages": []}

    async with bench.serve(graph_of(ask)) as runtime:
        run = a_run(runtime.message_input(AGENT, "Which?"))
        with dies_after(runtime, None, monkeypatch, responses=1):
            await play(runtime, run)
        second = await play(runtime, retried(run))
        assert second.completed.output is not None
    assert seen == [Tree(name="oak")] * 2
    assert len(provider.ledger) == 1
    assert len(replayed(second)) == 1


async def test_what_a_dead_attempt_was_answered_can_be_billed_before_anybody_asks_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench.serve(asking_once(numbered())) as runtime:
        run, other = (a_run(runtime.message_input(AGENT, "Go."), number=number) for number in (1, 2))
        with dies_after(runtime, None, monkeypatch, responses=1):
            first = await play(runtime, run)
        assert await runtime.answered_calls(run) == first.of(ModelCall) != []
        assert await runtime.answered_calls(other) == []
        await play(runtime, retried(run))
        assert await runtime.answered_calls(run) == []


async def test_a_call_can_be_billed_until_it_is_also_when_its_answer_serves_nobody_any_more(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, runs = numbered(), list[Any]()

    async def ask(state: MessagesState) -> Any:
        return {"messages": [await model.ainvoke(state["messages"])]}

    async def die(state: MessagesState) -> Any:
        if not runs:
            runs.append(1)
            raise StorageUnavailable("crashed")
        return {"messages": []}

    graph = StateGraph(MessagesState).add_sequence([ask, die]).add_edge(START, "ask").compile()
    async with bench.serve(graph) as runtime:
        run = a_run(runtime.message_input(AGENT, "Go."))
        first = await play(runtime, run)
        bought = first.of(ModelCall)
        assert (len(bought), len(kept(first))) == (1, 1)
        assert await runtime.answered_calls(run) == bought
        second = await play(runtime, retried(run))
        # The checkpoint behind the call had been stored: nothing was left to give back.
        assert (second.completed.response, second.of(ModelCall), replayed(second)) == ("#1 said", [], [])
        assert (await runtime.answered_calls(run), await rows_in(runtime)) == ([], 0)


async def test_the_answers_of_an_agent_that_failed_are_not_given_back_but_billed(bench: Bench) -> None:
    model = numbered()

    async def ask(state: MessagesState) -> Any:
        answer = await model.ainvoke(state["messages"])
        if answer.text.startswith("#1 "):
            raise ValueError("not this one")
        return {"messages": [answer]}

    async with bench.serve(graph_of(ask)) as runtime:
        run = a_run(runtime.message_input(AGENT, "Go."))
        async with prepared(runtime, run) as execution:
            with pytest.raises(AgentFailed):
                _ = [event async for event in execution.events()]
            # The engine's process may die here.
            assert [call.outcome for call in await runtime.answered_calls(run)] == ["complete"]
        second = await play(runtime, retried(run))
        assert (second.completed.response, replayed(second)) == ("#2 said", [])
        assert await rows_in(runtime) == 0


async def test_what_a_later_run_of_the_thread_was_answered_is_not_let_go_with_an_earlier_one(bench: Bench) -> None:
    model = numbered()
    async with bench.serve(remembering(model, [])) as runtime:
        one, two = (a_run(runtime.message_input(AGENT, "Go."), number=number) for number in (1, 2))
        async with prepared(runtime, one) as first:
            _ = [event async for event in first.events()]
            async with prepared(runtime, two) as second:
                _ = [event async for event in second.events()]
                await first.billed()
                assert (await runtime.answered_calls(one), len(await runtime.answered_calls(two))) == ([], 1)
                await second.billed()
        assert await rows_in(runtime) == 0


async def test_an_agent_with_parallel_tools_buys_each_answer_once_wherever_it_dies(
    bench: Bench, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees = tuple(ToolUse(name="fell", args={"tree": tree}) for tree in ("oak", "elm"))
    saved = 0
    async with bench.serve(create_agent(claude(provider), [fell])) as runtime:
        for writes in range(30):
            provider.script(Turn(text="I shall.", tools=trees), Turn(text="Both are down."))
            before = len(provider.ledger)
            run = a_run(runtime.message_input(AGENT, "Fell them."), thread=f"t{writes}")
            with dies_after(runtime, writes, monkeypatch) as death:
                first = await play(runtime, run)
            if not death:
                break
            bought = len(provider.ledger) - before
            if len(kept(first)) < bought:
                # Made after the death: in truth they never were.
                provider.script(
                    *((Turn(text="I shall.", tools=trees),) if not kept(first) else ()), Turn(text="Both are down.")
                )
            second = await play(runtime, retried(run))
            assert len(provider.ledger) - before - bought == 2 - len(kept(first)), f"died after {writes} writes"
            assert second.completed.response == "Both are down."
            messages = output_of(second)["messages"]
            assert [one["type"] for one in messages] == ["human", "ai", "tool", "tool", "ai"]
            saved += len(replayed(second))
    assert saved >= 2


def asking_once(model: NumberedModel) -> Any:
    """A node that asks a model."""

    async def node(_: MessagesState) -> MessagesState:
        return {"messages": [await model.ainvoke("x")]}

    return graph_of(node)


def asking(model: NumberedModel) -> Any:
    """A node that asks a model, then a human."""

    async def node(state: MessagesState) -> MessagesState:
        answer = await model.ainvoke("draft")
        interrupt(answer.text)
        return {"messages": [answer]}

    return graph_of(node)


async def test_what_was_bought_before_a_question_is_not_bought_again_for_its_answer(bench: Bench) -> None:
    model = numbered()
    async with bench.serve(asking(model)) as runtime:
        asked = await play(runtime, a_run(runtime.message_input(AGENT, "Write.")))
        assert list(asked.questions.values()) == ["#1 said"]
        assert await rows_in(runtime) == 1
        resume = await marked(runtime, a_run("fine", kind=InputKind.RESUME, number=2))
        ended = await play(runtime, resume)
        assert ended.completed.response == "#1 said"
        # On the account of the run that asked.
        assert (ended.of(ModelCall), ended.of(ModelReplayed), model.billed) == ([], [], [1])
        assert await rows_in(runtime) == 0


async def test_an_answer_that_an_agent_failed_on_is_not_given_to_it_again(bench: Bench) -> None:
    model = numbered()

    async def node(_: MessagesState) -> Any:
        answer = await model.ainvoke("x")
        if answer.text.startswith("#1"):
            raise ValueError("not this one")
        return {"messages": [answer]}

    async with bench.serve(graph_of(node)) as runtime:
        failed = await play(runtime, a_run(runtime.message_input(AGENT, "Go.")))
        assert isinstance(failed.error, AgentFailed)
        assert await rows_in(runtime) == 0
        assert (await play(runtime, a_run(kind=InputKind.CONTINUE, number=2))).completed.response == "#2 said"


async def test_a_run_that_reached_a_limit_goes_on_with_what_it_has_paid(bench: Bench) -> None:
    model = numbered()
    async with bench.serve(two_calls(model)) as runtime:
        run = a_run(runtime.message_input(AGENT, "Go."))
        stopped = await play(runtime, run, caps=Caps(steps=9, model_calls=1, tool_calls=0))
        assert stopped.error is not None
        assert stopped.error.code == "limit_reached"
        ended = await play(runtime, a_run(kind=InputKind.CONTINUE, number=2))
        assert ended.completed.response == "#2 said"
        assert [call.call_id for call in ended.of(ModelCall)] != [call.call_id for call in stopped.of(ModelCall)]
    assert model.billed == [1, 2]


async def test_an_ended_run_leaves_nothing_in_the_journal(bench: Bench) -> None:
    async with bench.serve(remembering(numbered(), [])) as runtime:
        (await play(runtime, a_run(runtime.message_input(AGENT, "Hi")))).completed  # noqa: B018 -- asserts
        assert await rows_in(runtime) == 0


@pytest.mark.parametrize("how", ["thread", "run"])
async def test_an_erased_thread_and_an_erased_run_take_their_responses_along(bench: Bench, how: str) -> None:
    async with bench.serve(asking(numbered())) as runtime:
        run = a_run(runtime.message_input(AGENT, "Write."))
        await play(runtime, run)
        assert await rows_in(runtime) == 1
        key = "acme/ann/thread"
        await (runtime.saver.adelete_thread(key) if how == "thread" else runtime.saver.erase_run(key, run.run_id))
        assert await rows_in(runtime) == 0


def two_calls(model: NumberedModel) -> Any:
    async def node(_: MessagesState) -> MessagesState:
        return {"messages": [await model.ainvoke("one"), await model.ainvoke("two")]}

    return graph_of(node)


async def test_a_replay_does_not_count_towards_the_limit_of_calls(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = numbered()
    async with bench.serve(two_calls(model)) as runtime:
        run = a_run(runtime.message_input(AGENT, "Go."))
        with dies_after(runtime, None, monkeypatch, responses=2):
            first = await play(runtime, run, caps=Caps(steps=9, model_calls=2, tool_calls=0))
        assert len(kept(first)) == 2
        none_left = Caps(steps=9, model_calls=0, tool_calls=0)
        assert (await play(runtime, retried(run), caps=none_left)).completed.response == "#2 said"
    assert model.billed == [1, 2]


async def test_a_call_that_only_looks_like_a_replay_counts_towards_the_limit(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = numbered()
    served = [model]

    async def node(_: MessagesState) -> MessagesState:
        return {"messages": [await served[0].ainvoke("one")]}

    async with bench.serve(graph_of(node)) as runtime:
        run = a_run(runtime.message_input(AGENT, "Go."))
        with dies_after(runtime, None, monkeypatch, responses=1):
            first = await play(runtime, run)
        assert len(kept(first)) == 1
        served[0] = numbered("another model", billed=model.billed)
        second = await play(runtime, retried(run), caps=Caps(steps=9, model_calls=0, tool_calls=0))
        assert second.error is not None
        assert (second.error.code, model.billed, second.of(ModelCall)) == ("limit_reached", [1], [])
        third = await play(runtime, retried(retried(run)), caps=CAPS)
        assert (third.completed.response, model.billed) == ("#2 another model", [1, 2])
