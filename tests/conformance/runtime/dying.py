"""A process that plays a run on Postgres and is killed behind a model's answer, before the step's checkpoint."""

import asyncio
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph

from roadworthy.domain.ids import RunId
from roadworthy.domain.run import Run
from tests.conformance.runtime.playing import AGENT, Bench, a_run, play
from tests.conformance.runtime.replaying import NumberedModel, numbered


def graph_over(model: NumberedModel, *, dies: bool) -> Any:
    """Two steps; behind the answer of the second the process dies."""

    async def first(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage("first")]}

    async def second(state: MessagesState) -> dict[str, Any]:
        answer = await model.ainvoke(state["messages"])
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"messages": [answer]}

    graph = StateGraph(MessagesState).add_node("first", first).add_node("second", second)
    return graph.add_edge(START, "first").add_edge("first", "second").compile()


def the_run(bench_input: Any) -> Run:
    """The same in both processes."""
    return replace(a_run(bench_input), run_id=RunId("f" * 32))


async def main(url: str) -> None:
    """Play, and die."""
    async with Bench(folder=Path.cwd(), url=url).serve(graph_over(numbered("bought"), dies=True)) as runtime:
        await play(runtime, the_run(runtime.message_input(AGENT, "Go.")))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
