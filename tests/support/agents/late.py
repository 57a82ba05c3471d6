"""A graph whose node stays in its thread when its run has ended, and writes to the store then."""

from pathlib import Path
from time import sleep
from typing import TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime


class State(TypedDict, total=False):
    """`gate`: a file that is waited for; beside it a file says what came of the write. `found`: what the store has."""

    gate: str
    found: list[str]


def work(state: State, runtime: Runtime) -> State:
    """Without a gate only look."""
    store = runtime.store
    assert store is not None
    if gate := state.get("gate"):
        while not Path(gate).exists():
            sleep(0.01)
        outcome = Path(gate).with_suffix(".outcome")
        try:
            store.put(("late",), "note", {"text": "too late"})
        except Exception as error:
            outcome.write_text(type(error).__name__)
            raise
        outcome.write_text("written")
    return {"found": [str(item.value["text"]) for item in store.search(("late",))]}


graph = StateGraph(State).add_node("work", work).add_edge(START, "work").add_edge("work", END).compile()
