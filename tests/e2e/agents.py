"""Agents for the tests of the command line. Nothing of it calls a provider."""

import asyncio
import sys
import threading
from typing import Annotated, TypedDict

from langchain_core.messages import AIMessage, AnyMessage
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages


class State(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


async def _wait(state: State) -> State:
    """Answer `hello` at once, and everything else never."""
    if state["messages"][-1].text != "hello":
        await asyncio.Event().wait()
    return {"messages": [AIMessage("hello to you")]}


async def _leave(state: State) -> State:
    """End the process from the event loop itself, out of reach of whoever called the node."""
    asyncio.get_running_loop().call_soon(sys.exit, 0)
    await asyncio.Event().wait()
    return state


_builder = StateGraph(State)
_builder.add_node("wait", _wait)
_builder.add_edge(START, "wait")
waiting = _builder.compile()


def _hang(state: State) -> State:
    """Block a thread for ever, out of reach of any cancel."""
    threading.Event().wait()
    return state


_hanging = StateGraph(State)
_hanging.add_node("hang", _hang)
_hanging.add_edge(START, "hang")
hanging = _hanging.compile()

_leaving = StateGraph(State)
_leaving.add_node("leave", _leave)
_leaving.add_edge(START, "leave")
leaving = _leaving.compile()
