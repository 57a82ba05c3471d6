"""A graph that blocks the event loop for good, once: a second process gets through. GATES holds the mark."""

import os
import time
from pathlib import Path
from typing import TypedDict

from langgraph.graph import END, START, StateGraph


class State(TypedDict):
    """Whether the node got through."""

    done: bool


async def wedge(state: State) -> State:
    """Block the loop, unless that happened before."""
    del state
    mark = Path(os.environ["GATES"]) / "wedged"
    if not mark.exists():
        mark.touch()
        time.sleep(60)  # noqa: ASYNC251 -- the fault itself
    return {"done": True}


graph = StateGraph(State).add_node("wedge", wedge).add_edge(START, "wedge").add_edge("wedge", END).compile()
