"""A finished model call is never bought twice, wherever a run dies: in every shape of graph, by every way to call."""

import asyncio
import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

import pytest
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.types import Send
from typing_extensions import TypedDict

from roadworthy.domain.run import Durability, Run
from roadworthy.domain.usage import ModelCall
from tests.conformance.runtime.playing import Bench, a_run, play, retried
from tests.conformance.runtime.replaying import NumberedModel, dies_after, kept, numbered, output_of, replayed

MAX_WRITES = 40


class Said(TypedDict, total=False):
    """What models answered."""

    said: Annotated[list[str], operator.add]


def one_node(node: Callable[..., Any]) -> Any:
    return StateGraph(Said).add_node("node", node).add_edge(START, "node").compile()


def two_nodes(node: Callable[..., Any]) -> Any:
    graph = StateGraph(Said).add_node("one", node).add_node("two", node)
    return graph.add_edge(START, "one").add_edge("one", "two").compile()


def by_invoke(model: NumberedModel) -> Any:
    def node(state: Said) -> Said:
        return {"said": [model.invoke(f"{len(state.get('said', ()))}").text]}

    return two_nodes(node)


def by_ainvoke(model: NumberedModel) -> Any:
    async def node(state: Said) -> Said:
        return {"said": [(await model.ainvoke(f"{len(state.get('said', ()))}")).text]}

    return two_nodes(node)


def by_batch(model: NumberedModel) -> Any:
    def node(_: Said) -> Said:
        return {"said": [answer.text for answer in model.batch(["a", "b", "c"])]}

    return one_node(node)


def by_abatch(model: NumberedModel) -> Any:
    async def node(_: Said) -> Said:
        return {"said": [answer.text for answer in await model.abatch(["a", "b", "c"])]}

    return one_node(node)


def identical_prompts(model: NumberedModel) -> Any:
    async def node(_: Said) -> Said:
        return {"said": [(await model.ainvoke("again")).text for _ in range(3)]}

    return one_node(node)


def identical_prompts_at_once(model: NumberedModel) -> Any:
    async def node(_: Said) -> Said:
        return {"said": [answer.text for answer in await asyncio.gather(*(model.ainvoke("x") for _ in range(3)))]}

    return one_node(node)


def in_a_subgraph(model: NumberedModel) -> Any:
    inner = by_ainvoke(model)
    return StateGraph(Said).add_node("inner", inner).add_edge(START, "inner").compile()


def in_a_subgraph_without_checkpoints(model: NumberedModel) -> Any:
    async def node(state: Said) -> Said:
        return {"said": [(await model.ainvoke(f"{len(state.get('said', ()))}")).text]}

    graph = StateGraph(Said).add_node("one", node).add_node("two", node)
    inner = graph.add_edge(START, "one").add_edge("one", "two").compile(checkpointer=False)
    return StateGraph(Said).add_node("inner", inner).add_edge(START, "inner").compile()


def in_two_subgraphs_of_a_node(model: NumberedModel) -> Any:
    inner = by_ainvoke(model)

    async def node(_: Said) -> Said:
        first, second = await inner.ainvoke({"said": []}), await inner.ainvoke({"said": []})
        return {"said": [*first["said"], *second["said"]]}

    return one_node(node)


def in_a_subgraph_that_saves_at_its_exit(model: NumberedModel) -> Any:
    inner = by_ainvoke(model)

    async def node(_: Said) -> Said:
        return {"said": (await inner.ainvoke({"said": []}, durability="exit"))["said"]}

    return one_node(node)


def by_sends(model: NumberedModel) -> Any:
    async def work(state: Any) -> Said:
        return {"said": [(await model.ainvoke(state["word"])).text]}

    def fan_out(_: Said) -> list[Send]:
        return [Send("work", {"word": word}) for word in ("a", "b", "b")]

    return StateGraph(Said).add_node("work", work).add_conditional_edges(START, fan_out, ["work"]).compile()


def by_tasks(model: NumberedModel) -> Any:
    @task
    async def ask(word: str) -> str:
        return (await model.ainvoke(word)).text

    @entrypoint()
    async def flow(_: Said) -> Said:
        return {"said": [await ask("a"), *(await asyncio.gather(ask("b"), ask("b")))]}

    return flow


SHAPES: dict[Callable[[NumberedModel], Any], int] = {
    by_invoke: 2,
    by_ainvoke: 2,
    by_batch: 3,
    by_abatch: 3,
    identical_prompts: 3,
    identical_prompts_at_once: 3,
    in_a_subgraph: 2,
    in_a_subgraph_without_checkpoints: 2,
    in_two_subgraphs_of_a_node: 4,
    in_a_subgraph_that_saves_at_its_exit: 2,
    by_sends: 3,
    by_tasks: 3,
}


def sync_or_async(run: Run, durability: Durability) -> Run:
    return replace(run, request=replace(run.request, durability=durability))


# LangGraph itself cannot run a graph without checkpoints inside of one that waits for them.
_BROKEN = (in_a_subgraph_without_checkpoints, Durability.SYNC)


@pytest.mark.parametrize(
    ("make", "durability"),
    [(make, durability) for make in SHAPES for durability in Durability if (make, durability) != _BROKEN],
)
async def test_what_was_answered_before_a_death_is_not_asked_again(
    bench: Bench, make: Callable[[NumberedModel], Any], durability: Durability, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = numbered()
    saved = 0
    async with bench.serve(make(model)) as runtime:
        for writes in range(MAX_WRITES):
            model.billed.clear()
            run = sync_or_async(a_run({"said": []}, thread=f"t{writes}"), durability)
            with dies_after(runtime, writes, monkeypatch) as death:
                first = await play(runtime, run)
            if not death:
                break
            bought_before = len(model.billed)
            second = await play(runtime, retried(run))
            bought = len(model.billed) - bought_before
            assert bought == SHAPES[make] - len(kept(first)), f"died after {writes} writes"
            assert {call.call_id for call in replayed(second)} <= {call.call_id for call in kept(first)}
            said = output_of(second)["said"]
            assert len(said) == len(set(said)) == SHAPES[make]
            saved += len(replayed(second))
        else:
            pytest.fail("the run never ended")
    assert saved >= SHAPES[make] - 1
    assert [call for call in first.of(ModelCall) if not call.journalled] == []
