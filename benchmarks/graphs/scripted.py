"""Graphs over the scripted model, each a factory that ``roadworthy serve`` takes as its target.

The server gives them its own checkpointer, the baseline hands one in: it is the same function both times.
"""

import asyncio
from collections.abc import Callable, Mapping
from secrets import token_hex
from typing import Any, TypeAlias

from langchain.agents import create_agent
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.pregel import Pregel

from benchmarks.graphs.answer import ANSWER_TOKENS, PACE_MS
from tests.support.scripted_model import ScriptedCall, ScriptedChatModel, ScriptedTurn, text_of

# The state's type parameters are the libraries' own.
Graph: TypeAlias = Pregel[Any, Any, Any, Any]
Saver: TypeAlias = BaseCheckpointSaver[Any]

_ANSWER = ScriptedTurn(text=text_of(ANSWER_TOKENS))


def instant() -> Graph:
    """One model call that answers at once."""
    return build_instant(None)


def paced() -> Graph:
    """One model call that takes its time for each token, as a provider does."""
    return build_paced(None)


def tooling() -> Graph:
    """A model call, a tool call, a model call, all at once."""
    return build_tooling(None)


def reading() -> Graph:
    """As ``tooling``, with a tool that returns 2 kB."""
    return build_reading(None)


def silent() -> Graph:
    """Says nothing until the run's time is up."""

    async def wait(state: MessagesState) -> MessagesState:
        await asyncio.Event().wait()
        return state

    return StateGraph(MessagesState).add_node("wait", wait).add_edge(START, "wait").compile()


def build_instant(saver: Saver | None) -> Graph:
    """See ``instant``."""
    return create_agent(ScriptedChatModel(turns=(_ANSWER,)), tools=[], checkpointer=saver)


def build_paced(saver: Saver | None) -> Graph:
    """See ``paced``."""
    return create_agent(ScriptedChatModel(turns=(_ANSWER,), ms_per_token=PACE_MS), tools=[], checkpointer=saver)


def build_tooling(saver: Saver | None) -> Graph:
    """See ``tooling``."""
    call = ScriptedTurn(calls=(ScriptedCall(name="look_up", args={"word": "road"}),))
    return create_agent(ScriptedChatModel(turns=(call, _ANSWER)), tools=[look_up], checkpointer=saver)


def build_reading(saver: Saver | None) -> Graph:
    """See ``reading``."""
    call = ScriptedTurn(calls=(ScriptedCall(name="read_page", args={"page": "road"}),))
    return create_agent(ScriptedChatModel(turns=(call, _ANSWER)), tools=[read_page], checkpointer=saver)


BUILDERS: Mapping[str, Callable[[Saver | None], Graph]] = {
    "instant": build_instant,
    "paced": build_paced,
    "tooling": build_tooling,
    "reading": build_reading,
}


async def look_up(word: str) -> str:
    """Look a word up."""
    return f"{word}: a way that is open to all"


async def read_page(page: str) -> str:
    """Read a page, another one each time."""
    return f"{page}: {token_hex(1_000)}"
