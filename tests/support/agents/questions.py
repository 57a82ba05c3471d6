"""A graph whose one node asks two questions."""

from typing import TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt


class State(TypedDict):
    """What was answered."""

    answers: list[str]


async def ask(state: State) -> State:
    """Ask twice."""
    first = interrupt("first?")
    second = interrupt("second?")
    return {"answers": [*state["answers"], str(first), str(second)]}


graph = StateGraph(State).add_node("ask", ask).add_edge(START, "ask").add_edge("ask", END).compile()
