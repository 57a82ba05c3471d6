"""A graph that keeps what it is told in LangGraph's store, under a namespace that names no user."""

from typing import TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime


class State(TypedDict, total=False):
    """`found`: everything that is in the store."""

    remember: str
    found: list[str]


async def remember(state: State, runtime: Runtime) -> State:
    """Store, then search."""
    store = runtime.store
    assert store is not None
    text = state.get("remember", "")
    if text:
        await store.aput(("memories",), text, {"text": text})
    items = await store.asearch(("memories",))
    return {"found": [str(item.value["text"]) for item in items]}


graph = StateGraph(State).add_node("remember", remember).add_edge(START, "remember").add_edge("remember", END).compile()
