"""Where the journal must not be fooled, and what is outside of its reach."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any

import pytest
from langchain_core.caches import BaseCache, InMemoryCache
from langchain_core.globals import get_llm_cache, set_llm_cache
from langchain_core.messages import HumanMessage
from langgraph.graph import MessagesState
from langgraph.types import RetryPolicy

from roadworthy.domain.errors import LeaseLost, ProviderUnavailable
from roadworthy.domain.usage import ModelCall, Tokens, Usage
from roadworthy.ports.runtime import ModelReplayed
from roadworthy.runtimes.langgraph import journal
from roadworthy.runtimes.langgraph.model_cache import JournalCache
from tests.conformance.runtime.playing import AGENT, BOUND, Bench, a_run, intercepted, play, prepared, retried
from tests.conformance.runtime.replaying import (
    NumberedModel,
    dies_after,
    graph_of,
    kept,
    numbered,
    remembering,
    replayed,
    rows_in,
)
from tests.support.scripted_model import ScriptedTurn


@pytest.fixture(autouse=True)
def cache_of_the_process() -> Generator[None]:
    before = get_llm_cache()
    yield
    set_llm_cache(before)


async def test_an_answer_that_was_cut_off_is_never_kept_and_the_retry_s_is(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut, whole = (numbered(ScriptedTurn(text="half", cut=cut), provider="anthropic") for cut in (True, False))
    whole.billed = cut.billed

    async def node(_: MessagesState) -> MessagesState:
        with pytest.raises(ProviderUnavailable):
            await cut.ainvoke("x")
        return {"messages": [await whole.ainvoke("x"), await whole.ainvoke("x")]}

    async with bench.serve(graph_of(node)) as runtime:
        run = a_run(runtime.message_input(AGENT, "Go."))
        with dies_after(runtime, None, monkeypatch, responses=2):
            first = await play(runtime, run)
        assert [call.outcome for call in first.of(ModelCall)] == ["cut", "complete", "complete"]
        assert await rows_in(runtime) == 2
        second = await play(runtime, retried(run))
        assert second.completed.response == "#3 half"
        assert replayed(second) == kept(first)
    # Only what was cut off was bought again.
    assert whole.billed == [1, 2, 3, 4]


class Retrying(NumberedModel):
    """Cuts its first answer off."""

    def _chunks(self, messages: Any) -> Any:
        chunks = list(super()._chunks(messages))
        if len(self.billed) == 1:
            del chunks[-1].response_metadata["stop_reason"]
        return iter(chunks)


async def test_the_same_call_made_again_after_a_cut_is_replayed_right(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Retrying(turns=(ScriptedTurn(text="said"),), provider="anthropic")

    async def node(_: MessagesState) -> MessagesState:
        for _attempt in range(2):
            try:
                return {"messages": [await model.ainvoke("x")]}
            except ProviderUnavailable:
                pass
        raise AssertionError("cut twice")

    async with bench.serve(graph_of(node)) as runtime:
        run = a_run(runtime.message_input(AGENT, "Go."))
        with dies_after(runtime, None, monkeypatch, responses=1):
            first = await play(runtime, run)
        assert [call.outcome for call in first.of(ModelCall)] == ["cut", "complete"]
        second = await play(runtime, retried(run))
        assert second.completed.response == "#2 said"
        assert replayed(second) == kept(first)
    assert model.billed == [1, 2]


async def test_an_answer_waits_for_the_checkpoint_that_it_stands_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, tried = asyncio.Event(), asyncio.Event()
    seen: list[Any] = []
    async with bench.serve(remembering(numbered(), seen)) as runtime, asyncio.timeout(BOUND):

        async def around(name: str, proceed: Callable[[], Awaitable[Any]]) -> Any:
            if name == "write":
                await gate.wait()
            stored = await proceed()
            if name == "keep_response":
                assert gate.is_set() or not stored
                tried.set()
            return stored

        with intercepted(runtime, monkeypatch, around):
            async with asyncio.TaskGroup() as group:
                playing = group.create_task(play(runtime, a_run(runtime.message_input(AGENT, "Go."))))
                await tried.wait()
                assert (seen, await rows_in(runtime)) == ([], 0)
                gate.set()
        assert len(seen) == 1
        assert len(kept(playing.result())) == 1


async def test_an_answer_whose_checkpoint_failed_waits_for_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    async with bench.serve(remembering(numbered(), seen)) as runtime:
        with dies_after(runtime, 0, monkeypatch):
            played = await play(runtime, a_run(runtime.message_input(AGENT, "Go.")))
        assert played.error is not None
        assert played.error.code == "storage"
        assert [call.journalled for call in played.of(ModelCall)] in ([], [False])


@pytest.mark.parametrize("sync", [False, True])
async def test_an_attempt_that_has_ended_lets_go_of_what_waits(
    bench: Bench, sync: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = threading.Event()
    model = numbered()

    async def wait(_: MessagesState) -> MessagesState:
        return {"messages": [await model.ainvoke("x")]}

    def block(_: MessagesState) -> MessagesState:
        return {"messages": [model.invoke("x")]}

    async def never(*_: object) -> bool:
        tried.set()
        return False

    monkeypatch.setattr(journal, "keep_row", never)
    async with bench.serve(graph_of(block if sync else wait)) as runtime, asyncio.timeout(BOUND):
        async with prepared(runtime, a_run(runtime.message_input(AGENT, "Go."))) as execution:
            async with asyncio.TaskGroup() as group:
                driving = group.create_task(_drain(execution.events()))
                await asyncio.to_thread(tried.wait)
                driving.cancel()
            await execution.settled()
            (call,) = execution.open_calls()
        assert call.outcome in {"cancelled", "complete"}
        assert await rows_in(runtime) == 0


async def _drain(events: AsyncIterator[object]) -> None:
    async for _ in events:
        pass


async def test_an_attempt_that_lost_its_lease_keeps_nothing(bench: Bench) -> None:
    fences: list[Callable[[], None]] = []

    async def node(_: MessagesState) -> MessagesState:
        return {"messages": [await model.ainvoke("x")]}

    class Fencing(NumberedModel):
        def _first(self) -> Any:
            fences[0]()
            return super()._first()

    model = Fencing(turns=(ScriptedTurn(text="said"),))
    async with bench.serve(graph_of(node)) as runtime:
        async with prepared(runtime, a_run(runtime.message_input(AGENT, "Go."))) as execution:
            fences.append(execution.fence)
            with pytest.raises(LeaseLost):
                await _drain(execution.events())
        assert await rows_in(runtime) == 0


async def test_a_cache_of_the_user_s_own_goes_on_working_and_costs_nothing(bench: Bench) -> None:
    own = InMemoryCache()
    set_llm_cache(own)
    model = numbered()
    async with bench.serve(remembering(model, [])) as runtime:
        first, second = [
            await play(runtime, a_run(runtime.message_input(AGENT, "Same."), thread=thread)) for thread in ("a", "b")
        ]
        assert isinstance(get_llm_cache(), JournalCache)
    assert get_llm_cache() is own
    assert first.completed.response == second.completed.response == "#1 said"
    (paid,), (free,) = first.of(ModelCall), second.of(ModelCall)
    assert paid.tokens.output > 0
    assert (free.tokens, free.estimated, free.outcome, free.journalled) == (Tokens(), False, "complete", True)
    assert second.of(ModelReplayed) == []
    assert model.billed == [1]


async def test_langchain_is_asked_for_a_cache_only_while_there_is_something_to_give(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, seen = numbered(), list[object]()

    async def node(_: MessagesState) -> MessagesState:
        seen.append(get_llm_cache())
        return {"messages": [await model.ainvoke("x")]}

    async with bench.serve(graph_of(node)) as runtime:
        run = a_run(runtime.message_input(AGENT, "Go."), thread="a")
        with dies_after(runtime, None, monkeypatch, responses=1):
            await play(runtime, run)
        await play(runtime, retried(run))
        assert get_llm_cache() is None
    assert [type(one) for one in seen] == [type(None), JournalCache]
    assert model.billed == [1]


async def test_a_cache_that_is_set_meanwhile_is_put_behind_the_journal_by_the_next_attempt(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = numbered()
    own = InMemoryCache()

    async def node(_: MessagesState) -> MessagesState:
        if not model.billed:
            set_llm_cache(own)
        return {"messages": [await model.ainvoke("x")]}

    async with bench.serve(graph_of(node)) as runtime:
        first = await play(runtime, a_run(runtime.message_input(AGENT, "Go."), thread="a"))
        assert [call.journalled for call in first.of(ModelCall)] == [True]
        own.clear()
        run = a_run(runtime.message_input(AGENT, "Go."), thread="b")
        with dies_after(runtime, None, monkeypatch, responses=1):
            second = await play(runtime, run)
        own.clear()
        third = await play(runtime, retried(run))
        assert isinstance(cache := get_llm_cache(), JournalCache)
        assert cache.delegate is own
        assert replayed(third) == kept(second) != []
    assert model.billed == [1, 2]


class Forgetful(BaseCache):
    """Counts, and never has anything."""

    def __init__(self) -> None:
        self.updates = 0

    def lookup(self, prompt: str, llm_string: str) -> None:
        """Nothing."""

    def update(self, prompt: str, llm_string: str, return_val: Any) -> None:
        """Count."""
        self.updates += 1

    def clear(self, **kwargs: Any) -> None:
        """Nothing."""


async def test_what_was_cut_off_does_not_reach_a_cache_of_the_user_s_own(bench: Bench) -> None:
    set_llm_cache(own := Forgetful())
    model = numbered(ScriptedTurn(text="half", cut=True), provider="anthropic")
    async with bench.serve(remembering(model, [])) as runtime:
        played = await play(runtime, a_run(runtime.message_input(AGENT, "Go.")))
    assert played.error is not None
    assert own.updates == 0


class Unstable(NumberedModel):
    """Describes itself by an address in memory."""

    @property
    def _identifying_params(self) -> Any:
        return {"hook": object()}


class Outer(NumberedModel):
    """Asks another model, with the same words, before it answers."""

    inner: Any = None

    async def _astream(self, messages: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        await self.inner.ainvoke("inner")
        async for chunk in super()._astream(messages, *args, **kwargs):
            yield chunk


async def by_astream(model: NumberedModel) -> None:
    async for _ in model.astream("x"):
        pass


async def by_agenerate(model: NumberedModel) -> None:
    await model.agenerate([[HumanMessage("x")], [HumanMessage("y")]])


async def by_blocking_the_loop(model: NumberedModel) -> None:
    model.invoke("x")


async def by_ainvoke(model: NumberedModel) -> None:
    await model.ainvoke("x")


@pytest.mark.parametrize(
    ("make", "ask"),
    [
        (numbered, by_astream),
        (numbered, by_agenerate),
        (numbered, by_blocking_the_loop),
        (lambda: numbered(cache=False), by_ainvoke),
        (lambda: numbered(cache=InMemoryCache()), by_ainvoke),
        (Unstable, by_ainvoke),
    ],
)
async def test_calls_outside_of_the_journal_s_reach_are_counted(bench: Bench, make: Any, ask: Any) -> None:
    model = make()

    async def node(_: MessagesState) -> MessagesState:
        await ask(model)
        return {"messages": []}

    async with bench.serve(graph_of(node)) as runtime:
        played = await play(runtime, a_run(runtime.message_input(AGENT, "Go.")))
        calls = played.of(ModelCall)
        assert {(call.outcome, call.journalled) for call in calls} == {("complete", False)}
        assert Usage().plus(calls).unjournalled == len(calls) == len(model.billed)


async def test_a_model_that_asks_another_is_replayed_without_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = numbered("inner")
    model = Outer(turns=(ScriptedTurn(text="outer"),), inner=inner)
    async with bench.serve(remembering(model, [])) as runtime:
        run = a_run(runtime.message_input(AGENT, "inner"))
        with dies_after(runtime, None, monkeypatch, responses=2):
            first = await play(runtime, run)
        assert len(kept(first)) == 2
        second = await play(runtime, retried(run))
    assert [call.call_id for call in replayed(second)] == [kept(first)[1].call_id]
    assert (model.billed, inner.billed) == ([1], [1])


async def test_a_node_that_is_tried_again_within_an_attempt_buys_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As without a journal: the answer may be why it failed."""
    model = numbered()

    async def node(_: MessagesState) -> MessagesState:
        answer = await model.ainvoke("x")
        if answer.text.startswith("#1"):
            raise ValueError("not this one")
        return {"messages": [answer]}

    retry = RetryPolicy(initial_interval=0.01, retry_on=ValueError)
    async with bench.serve(graph_of(node, retry)) as runtime:
        run = a_run(runtime.message_input(AGENT, "Go."))
        with dies_after(runtime, None, monkeypatch, responses=2):
            first = await play(runtime, run)
        second = await play(runtime, retried(run))
        assert second.completed.response == "#2 said"
        assert replayed(second) == kept(first)
    assert model.billed == [1, 2]


async def test_a_sync_call_in_a_loop_of_its_own_is_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    model = numbered()

    def node(_: MessagesState) -> MessagesState:
        return {"messages": [asyncio.run(model.ainvoke("x"))]}

    async with bench.serve(graph_of(node)) as runtime:
        run = a_run(runtime.message_input(AGENT, "Go."))
        with dies_after(runtime, None, monkeypatch, responses=1):
            first = await play(runtime, run)
        second = await play(runtime, retried(run))
        assert replayed(second) == kept(first) != []
        assert second.completed.response == "#1 said"
    assert model.billed == [1]
