"""Agents with tools that must not take effect twice: `charge` knows its key, `transfer` declares that it runs once.

Environment as in `claude.py`. `graph` is made by `create_agent`; `plain` has sync nodes and one task for all tools of
a message; `nested` is `graph` as a node of another graph.
"""

import asyncio
import os
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from roadworthy import effect
from tests.support.agents.claude import effects, model, note


async def opened(gate: str) -> None:
    """Until another process has opened the gate."""
    while not (Path(os.environ["GATES"]) / gate).exists():  # noqa: ASYNC110 -- as said
        await asyncio.sleep(0.01)


@tool
async def charge(text: str, config: RunnableConfig) -> str:
    """Charge, with a payment provider that knows keys."""
    key = config.get("configurable", {})["idempotency_key"]
    log = effects()
    log.record("charge", key, "begin")
    if not log.count("charge", key=key):
        log.record("charge", key)
    await opened(f"charge-{text}")
    return f"charged {text}"


@effect("once")
@tool
async def transfer(text: str) -> str:
    """Transfer, with a bank that knows no keys."""
    log = effects()
    log.record("transfer", text, "begin")
    await opened(f"before-{text}")
    log.record("transfer", text)
    await opened(f"after-{text}")
    return f"transferred {text}"


TOOLS: list[BaseTool] = [note, charge, transfer]


def ask(state: MessagesState) -> dict[str, Any]:
    """Call the model from a thread."""
    answer: AIMessage = model().bind_tools(TOOLS).invoke(state["messages"])
    return {"messages": [answer]}


def _plain() -> Any:
    made = StateGraph(MessagesState).add_node("model", ask).add_node("tools", ToolNode(TOOLS))
    made = made.add_edge(START, "model").add_conditional_edges("model", tools_condition).add_edge("tools", "model")
    return made.compile()


graph = create_agent(model(), TOOLS, system_prompt="You are under test.")
plain = _plain()
nested = StateGraph(MessagesState).add_node("inner", graph).add_edge(START, "inner").compile()
