"""Graphs that call models in all the ways there are, each more than twice, and answer in the end.

Each is made around a model; whatever else it calls shares that model's bill.
"""

import asyncio
from contextlib import suppress
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import ModelFallbackMiddleware, ModelRetryMiddleware
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph

from tests.conformance.runtime.paying import CountingModel
from tests.conformance.runtime.playing import Compiled
from tests.support.scripted_model import ScriptedCall, ScriptedTurn

THE_END = ScriptedTurn(text="the end")


def speaking(*turns: ScriptedTurn) -> CountingModel:
    return CountingModel(turns=turns or (THE_END,))


def one_node(node: Any) -> Compiled:
    return StateGraph(MessagesState).add_node("node", node).add_edge(START, "node").compile()


def agent_with(work: Any, model: CountingModel, *middleware: Any, calls: int = 1) -> Compiled:
    turn = ScriptedTurn(calls=tuple(ScriptedCall(name="work", args={}) for _ in range(calls)))
    outer = CountingModel(turns=(turn, THE_END), billed=model.billed)
    return create_agent(outer, [work], middleware=middleware)


def subgraphs(model: CountingModel) -> Compiled:
    async def speak(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    inner = StateGraph(MessagesState).add_node("one", speak).add_node("two", speak)
    inner = inner.add_edge(START, "one").add_edge("one", "two")
    outer = StateGraph(MessagesState).add_node("first", inner.compile()).add_node("second", inner.compile())
    return outer.add_edge(START, "first").add_edge("first", "second").compile()


def parallel_tools(model: CountingModel) -> Compiled:
    @tool
    async def work() -> str:
        """Work."""
        return (await model.ainvoke("go")).text

    return agent_with(work, model, calls=3)


def parallel_sync_tools(model: CountingModel) -> Compiled:
    @tool
    def work() -> str:
        """Work."""
        return model.invoke("go").text

    return agent_with(work, model, calls=3)


def sync_subagent_in_a_sync_tool(model: CountingModel) -> Compiled:
    @tool
    def rest() -> str:
        """Rest."""
        return "rested"

    turns = (ScriptedTurn(calls=(ScriptedCall(name="rest", args={}),)), THE_END)
    inner = create_agent(CountingModel(turns=turns, billed=model.billed), [rest])

    @tool
    def work() -> str:
        """Work."""
        return inner.invoke({"messages": [HumanMessage("go")]})["messages"][-1].text

    return agent_with(work, model)


def no_callbacks(model: CountingModel) -> Compiled:
    async def node(state: MessagesState) -> dict[str, Any]:
        answers = [await model.ainvoke(state["messages"], {"callbacks": []}) for _ in range(4)]
        return {"messages": [answers[-1]]}

    return one_node(node)


def streaming_node(model: CountingModel) -> Compiled:
    async def node(state: MessagesState) -> dict[str, Any]:
        texts = ["".join([chunk.text async for chunk in model.astream(state["messages"])]) for _ in range(4)]
        return {"messages": [("ai", texts[-1])]}

    return one_node(node)


def loop_in_a_sync_tool(model: CountingModel) -> Compiled:
    @tool
    def work() -> str:
        """Work."""
        answers = [asyncio.run(model.ainvoke("go")) for _ in range(4)]
        return answers[-1].text

    return agent_with(work, model)


def sync_streaming_node(model: CountingModel) -> Compiled:
    def node(state: MessagesState) -> dict[str, Any]:
        texts = ["".join(chunk.text for chunk in model.stream(state["messages"])) for _ in range(4)]
        return {"messages": [("ai", texts[-1])]}

    return one_node(node)


def batching_node(model: CountingModel) -> Compiled:
    async def node(state: MessagesState) -> dict[str, Any]:
        answers = await model.abatch([state["messages"]] * 4)
        return {"messages": [answers[-1]]}

    return one_node(node)


def sync_batch_in_an_async_node(model: CountingModel) -> Compiled:
    async def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.batch([state["messages"]] * 4)[-1]]}

    return one_node(node)


def loops_in_threads_of_an_async_node(model: CountingModel) -> Compiled:
    def ask(_: object) -> AIMessage:
        return asyncio.run(model.ainvoke("go"))

    async def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [RunnableLambda(ask).batch([None] * 4)[-1]]}

    return one_node(node)


def retrying(model: CountingModel) -> Compiled:
    @tool
    async def work() -> str:
        """Work."""
        return (await model.ainvoke("go")).text

    patient = ModelRetryMiddleware(max_retries=3, initial_delay=0)
    return agent_with(work, model, patient, ModelFallbackMiddleware(speaking(THE_END)), calls=2)


def falling_back(model: CountingModel) -> Compiled:
    spare: BaseChatModel = CountingModel(turns=(THE_END,), billed=model.billed)

    async def node(state: MessagesState) -> dict[str, Any]:
        answers = [await model.with_fallbacks([spare]).ainvoke(state["messages"]) for _ in range(4)]
        return {"messages": [answers[-1]]}

    return one_node(node)


def swallowing_tool(model: CountingModel) -> Compiled:
    @tool
    async def work() -> str:
        """Work."""
        for _ in range(5):
            with suppress(Exception):
                await model.ainvoke("go")
        return "done"

    return agent_with(work, model)


GRAPHS = (
    subgraphs,
    parallel_tools,
    parallel_sync_tools,
    sync_subagent_in_a_sync_tool,
    no_callbacks,
    streaming_node,
    sync_streaming_node,
    loop_in_a_sync_tool,
    batching_node,
    sync_batch_in_an_async_node,
    loops_in_threads_of_an_async_node,
    retrying,
    falling_back,
    swallowing_tool,
)
