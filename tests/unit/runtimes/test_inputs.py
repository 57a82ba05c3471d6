"""What a client may give a graph is checked before anything is stored."""

from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from langgraph.func import entrypoint
from langgraph.graph import START, MessagesState, StateGraph
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from roadworthy.domain.agent import Agent
from roadworthy.domain.errors import InvalidRequest
from roadworthy.domain.ids import AgentName
from roadworthy.runtimes.langgraph.graphs import ServedGraph
from roadworthy.runtimes.langgraph.inputs import check_context, check_state
from roadworthy.runtimes.langgraph.messages import input_message_channel, message_channels


def keep_any(old: Any, new: Any) -> Any:
    return new


class Card(BaseModel):
    title: str


class State(MessagesState, total=False):
    n: int
    card: Card
    free: Annotated[int, keep_any]


@dataclass
class Context:
    name: str
    size: Annotated[int, Field(gt=0)] = 1


def served(graph: Any) -> ServedGraph:
    agent = Agent(name=AgentName("a"), description="", accepts_message=True, input_schema={})
    return ServedGraph(
        agent=agent,
        graph=graph,
        messages=message_channels(graph),
        input_message=input_message_channel(graph),
        steps=None,
    )


def graph_of(state: Any, **options: Any) -> ServedGraph:
    def node(state: Any) -> dict[str, Any]:
        return {}

    return served(StateGraph(state, **options).add_node("node", node).add_edge(START, "node").compile())


@pytest.mark.parametrize(
    "payload",
    [
        {"messages": "hi"},
        {"messages": ["hi"]},
        {"messages": {"role": "user", "content": "hi"}},
        {"messages": [["user", "hi"], {"type": "human", "content": [{"type": "text", "text": "x"}]}]},
        {"n": 3},
        {"card": {"title": "t"}},
        {"free": "anything goes through a reducer of the author's"},
    ],
)
def test_what_fits_passes(payload: Any) -> None:
    check_state(graph_of(State), payload)


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        (None, "input"),
        ("text", "input"),
        ([], "input"),
        ({}, "input"),
        ({"messges": []}, "input.messges"),
        ({"messages": [{"role": "user"}]}, "input.messages"),
        ({"messages": [{"role": "nobody", "content": "x"}]}, "input.messages"),
        ({"messages": [3]}, "input.messages"),
        ({"n": "many"}, "input.n"),
        ({"card": {"name": "t"}}, "input.card"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(payload: Any, field: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        check_state(graph_of(State), payload)
    assert raised.value.field == field


def test_faults_are_told_without_the_values() -> None:
    with pytest.raises(InvalidRequest) as raised:
        check_state(graph_of(State), {"n": "a secret"})
    assert "secret" not in raised.value.message


def test_only_the_declared_input_is_taken() -> None:
    class Question(TypedDict):
        n: int

    graph = graph_of(State, input_schema=Question)
    check_state(graph, {"n": 1})
    assert graph.input_message is None
    with pytest.raises(InvalidRequest):
        check_state(graph, {"messages": "hi"})


def test_a_flow_takes_what_its_argument_is() -> None:
    @entrypoint()
    async def flow(n: int) -> int:
        return n

    check_state(served(flow), 3)
    with pytest.raises(InvalidRequest):
        check_state(served(flow), "many")


def test_a_context_fits_its_schema_or_there_is_none() -> None:
    graph = graph_of(State, context_schema=Context)
    check_context(graph, None)
    check_context(graph, {"name": "ann"})
    for wrong in ({}, {"name": "ann", "size": 0}, {"name": 3}):
        with pytest.raises(InvalidRequest):
            check_context(graph, wrong)
    with pytest.raises(InvalidRequest):
        check_context(graph_of(State), {"name": "ann"})
