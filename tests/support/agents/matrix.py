"""Four shapes of graph that do the same: a note, a charge and a transfer, each asked for by a call of the model.

`note` declares nothing, `charge` is idempotent and knows its key, `transfer` must run once. `plain` has sync nodes and
a `ToolNode`, `agent` is `create_agent`, `subgraph` has an agent as a node before another model call, `fanout` sends
three agents off at once and sums up. Environment as in `claude.py` and `crashing.py`, whose points they pass; the
tools are points of their own. The effect log gets `answered` with a message's id when a graph has seen an answer.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Send

from roadworthy import effect
from tests.support.agents.claude import effects, model
from tests.support.agents.crashing import reached

ERRANDS = ("note", "charge", "transfer")


@tool
def note(text: str) -> str:
    """Write a note."""
    effects().record("note", text, "begin")
    reached("before-effect")
    effects().record("note", text)
    reached("after-effect")
    return f"noted {text}"


@effect("idempotent")
@tool
async def charge(text: str, config: RunnableConfig) -> str:
    """Charge, with a payment provider that knows keys."""
    key = config.get("configurable", {})["idempotency_key"]
    log = effects()
    log.record("charge", key, "begin")
    reached("before-effect")
    if not log.count("charge", key=key):
        log.record("charge", key)
    reached("after-effect")
    return f"charged {text}"


@effect("once")
@tool
def transfer(text: str) -> str:
    """Transfer, with a bank that knows no keys."""
    effects().record("transfer", text, "begin")
    reached("before-effect")
    effects().record("transfer", text)
    reached("after-effect")
    return f"transferred {text}"


TOOLS: list[BaseTool] = [note, charge, transfer]


def seen(message: BaseMessage) -> None:
    """The graph has this answer."""
    effects().record("answered", str(message.id))


class Seeing(AgentMiddleware[Any, Any, Any]):
    """Says what an agent's graph has seen."""

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        response = await handler(request)
        seen(response.result[0])
        return response


def ask(state: MessagesState) -> dict[str, Any]:
    """Call the model from a thread."""
    answer: AIMessage = model().bind_tools(TOOLS).invoke(state["messages"])
    seen(answer)
    return {"messages": [answer]}


async def tell(question: str) -> dict[str, Any]:
    """Call the model for one question of its own."""
    answer = await model().ainvoke([HumanMessage(question)])
    seen(answer)
    return {"messages": [answer]}


async def close(state: MessagesState) -> dict[str, Any]:
    """Look back on everything."""
    return await tell("close")


async def split(state: MessagesState) -> dict[str, Any]:
    """Look ahead."""
    return await tell("split")


def errands(_: MessagesState) -> list[Send]:
    """One agent for each tool."""
    return [Send("errand", {"messages": [HumanMessage(f"errand {name}")]}) for name in ERRANDS]


def _plain() -> Any:
    made = StateGraph(MessagesState).add_node("model", ask).add_node("tools", ToolNode(TOOLS))
    made = made.add_edge(START, "model").add_conditional_edges("model", tools_condition).add_edge("tools", "model")
    return made.compile()


def _agent() -> Any:
    return create_agent(model(), TOOLS, system_prompt="You are under test.", middleware=[Seeing()])


def _subgraph() -> Any:
    made = StateGraph(MessagesState).add_node("inner", _agent()).add_node("close", close)
    return made.add_edge(START, "inner").add_edge("inner", "close").compile()


def _fanout() -> Any:
    made = StateGraph(MessagesState).add_node("split", split).add_node("errand", _agent()).add_node("close", close)
    made = made.add_edge(START, "split").add_conditional_edges("split", errands, ["errand"])
    return made.add_edge("errand", "close").compile()


plain, agent, subgraph, fanout = _plain(), _agent(), _subgraph(), _fanout()
