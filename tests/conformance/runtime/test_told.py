"""A later attempt says what the state holds and nobody has heard whole, once; and its answer is the run's."""

from typing import Any

import pytest
from langgraph.graph import START, MessagesState, StateGraph

from roadworthy.domain.event import ContentDelta
from tests.conformance.runtime.playing import Bench, a_run, crash_after, play, retried
from tests.conformance.runtime.replaying import numbered

MAX_WRITES = 30


def speaking_early(nested: bool = False) -> Any:
    """A model speaks first, then a node works in silence; inside of a subgraph, if so."""
    model = numbered("said")

    async def speak(state: MessagesState) -> Any:
        return {"messages": [await model.ainvoke(state["messages"])]}

    async def work(state: MessagesState) -> Any:
        return {}

    made = StateGraph(MessagesState).add_node("speak", speak).add_node("work", work)
    graph = made.add_edge(START, "speak").add_edge("speak", "work").compile()
    return StateGraph(MessagesState).add_node("inner", graph).add_edge(START, "inner").compile() if nested else graph


@pytest.mark.parametrize("heard", ["nothing", "a part", "all"])
@pytest.mark.parametrize("nested", [False, True])
async def test_a_death_takes_neither_text_nor_answer(
    bench: Bench, nested: bool, heard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench.serve(speaking_early(nested)) as runtime:
        for writes in range(MAX_WRITES):
            run = a_run(runtime.message_input(runtime.agents()[0].name, "go"), thread=f"t{writes}")
            with crash_after(runtime, writes, monkeypatch) as refused:
                first = await play(runtime, run)
            shown: dict[str, str] = {}
            for one in first.of(ContentDelta):
                shown[one.message_id] = shown.get(one.message_id, "") + one.text
            shown = {id_: text if heard == "all" else text[:2] for id_, text in shown.items() if heard != "nothing"}
            again = retried(run)
            told = await runtime.surviving(again, shown)
            second = await play(runtime, again, told=told)
            said = "".join(shown[id_] for id_ in told) + second.text
            assert said == second.completed.response, f"died after {writes} writes"
            output: Any = second.completed.output
            assert [one["content"] for one in output["messages"] if one["type"] == "ai"] == [said]
            if not refused[0]:
                return
        pytest.fail("the run never ended")
