"""Tools that count what they do, agents of several shapes that call them, and an attempt that is cut off in a tool."""

import asyncio
from collections import Counter
from collections.abc import Collection
from typing import Any

from langchain.agents import create_agent
from langchain.tools import ToolRuntime
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

from roadworthy import effect
from roadworthy.domain.ids import ThreadId
from roadworthy.domain.run import InputKind, Run
from roadworthy.domain.thread import ThreadRef
from roadworthy.runtimes.langgraph.runtime import LangGraphRuntime
from tests.conformance.runtime.playing import AGENT, BOUND, OWNER, Compiled, Played, a_run, looked_up, play, prepared
from tests.support.scripted_model import ScriptedCall, ScriptedChatModel, ScriptedTurn

LOOKED = (("c-look", "finished"),)
THREAD = ThreadRef(owner=OWNER, thread_id=ThreadId("thread"))


class Shop:
    """Tools that count what they do; ``pay`` must happen once, and hangs for as long as it is told to."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.keys: list[str] = []
        self.began = asyncio.Event()
        self.held = True
        shop = self

        @tool
        async def look(config: RunnableConfig) -> str:
            """Look."""
            shop.done["look"] += 1
            shop.keys.append(config.get("configurable", {})["idempotency_key"])
            return f"looked {shop.done['look']} times"

        @effect("once")
        @tool
        async def pay(amount: int, runtime: ToolRuntime) -> str:
            """Pay."""
            shop.done["pay"] += 1
            shop.keys.append(runtime.config.get("configurable", {})["idempotency_key"])
            await shop.hold()
            return f"paid {amount}"

        @tool
        async def wait() -> str:
            """Wait."""
            shop.done["wait"] += 1
            await shop.hold()
            return "waited"

        self.look, self.pay, self.wait = look, pay, wait

    async def hold(self) -> None:
        """Tell the test, and hang until it has let go."""
        self.began.set()
        if self.held:
            await asyncio.Event().wait()


LOOK = ScriptedCall(name="look", args={}, id="c-look")
PAY = ScriptedCall(name="pay", args={"amount": 7}, id="c-pay")
WAIT = ScriptedCall(name="wait", args={}, id="c-wait")


def agent(tools: list[BaseTool], *calls: ScriptedCall, **options: Any) -> Compiled:
    """Calls its tools all at once, each in a task of its own, and says Done."""
    turns = (ScriptedTurn(calls=calls), ScriptedTurn(text="Done."))
    return create_agent(ScriptedChatModel(turns=turns), tools, **options)


def one_node(tools: list[BaseTool], *calls: ScriptedCall) -> Compiled:
    """The same with all calls in one task."""
    asked = [{"name": call.name, "args": dict(call.args), "id": call.id} for call in calls]

    def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage("", tool_calls=asked)]}

    def end(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage("Done.")]}

    graph = StateGraph(MessagesState).add_node("ask", ask).add_node("tools", ToolNode(tools)).add_node("end", end)
    return graph.add_edge(START, "ask").add_edge("ask", "tools").add_edge("tools", "end").compile()


def nested(tools: list[BaseTool], *calls: ScriptedCall) -> Compiled:
    """The same in a subgraph."""
    inner = one_node(tools, *calls)
    return StateGraph(MessagesState).add_node("inner", inner).add_edge(START, "inner").compile()


def unsaved(tools: list[BaseTool], *calls: ScriptedCall) -> Compiled:
    """The same in a subgraph that keeps no checkpoints."""
    inner = one_node(tools, *calls)
    inner.checkpointer = False
    return StateGraph(MessagesState).add_node("inner", inner).add_edge(START, "inner").compile()


SHAPES = (agent, one_node, nested, unsaved)


async def cut_off(
    runtime: LangGraphRuntime, run: Run, shop: Shop, *, seen: Collection[tuple[str, str]] = (), begun: int = 0
) -> None:
    """Play an attempt until a tool hangs, calls are ``seen`` in states, and so many have ``begun`` or ended; give it
    up there, as a crash would.
    """
    async with asyncio.timeout(BOUND), prepared(runtime, run) as execution:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(consume(execution))
            await shop.began.wait()
            while not set(seen) <= set(found := await rows(runtime)) or len(found) < begun:
                pass  # each look is a turn of the loop
            execution.fence()
            task.cancel()
        await execution.settled()
    shop.began.clear()


async def consume(execution: Any) -> None:
    """Play an attempt for its effects."""
    async for _ in execution.events():
        pass


async def tool_messages(runtime: LangGraphRuntime) -> list[Any]:
    """What the thread's model was told by its tools."""
    state = await runtime.thread_state(AGENT, THREAD)
    return [message.content for message in state.messages if message.role == "tool"]


def go(runtime: LangGraphRuntime, number: int = 1) -> Run:
    """A run with a new message, its thread's n-th."""
    return a_run(runtime.message_input(AGENT, "go"), number=number)


async def going_on(runtime: LangGraphRuntime) -> Played:
    """Resume a run that ended for review."""
    return await play(runtime, a_run(kind=InputKind.CONTINUE, number=2))


async def rows(runtime: LangGraphRuntime) -> list[tuple[str, str]]:
    """Calls that something is known of, with their states."""
    query = "SELECT tool_call_id, state FROM tool_calls ORDER BY tool_call_id"
    return await looked_up(runtime, query)
