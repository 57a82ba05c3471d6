"""States of every kind come back from the checkpoints as what they were, and nothing else is brought to life."""

import operator
import sys
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import interrupt
from pydantic import BaseModel
from typing_extensions import TypedDict

from roadworthy.domain.errors import ConfigError
from roadworthy.domain.run import InputKind
from roadworthy.runtimes.langgraph.registry import LoadedAgent, replaced_parts
from roadworthy.runtimes.langgraph.state_types import allowed_types, blocked_types
from tests.conformance.runtime.playing import AGENT, Bench, a_run, marked, play, ref_of, retried


class Mood(Enum):
    """An enum in a state."""

    GOOD = "good"


@dataclass
class Point:
    """A dataclass in a state."""

    x: int
    mood: Mood = Mood.GOOD


class Card(BaseModel):
    """A model in a state."""

    title: str
    point: Point


class Opaque:
    """A plain class, which no checkpoint keeps."""


class Typed(TypedDict, total=False):
    """A typed dict with both."""

    card: Card
    points: Annotated[list[Point], operator.add]
    seen: list[str]


class Modelled(BaseModel):
    """A state that is a model."""

    card: Card | None = None
    seen: list[str] = []


@dataclass
class Dataclassed:
    """A state that is a dataclass."""

    card: Card | None = None
    seen: list[str] = field(default_factory=list)


def _fill(state: Any) -> dict[str, Any]:
    return {"card": Card(title="t", point=Point(x=1)), "seen": []}


def _read(state: Any) -> dict[str, Any]:
    interrupt("read?")
    card = state["card"] if isinstance(state, dict) else state.card
    return {"seen": [type(card).__name__, type(card.point).__name__, str(card.point.mood)]}


def _graph(state: Any) -> Any:
    graph = StateGraph(state).add_node("fill", _fill).add_node("read", _read)
    return graph.add_edge(START, "fill").add_edge("fill", "read").compile()


@pytest.mark.parametrize("state", [Typed, Modelled, Dataclassed])
@pytest.mark.parametrize("nested", [False, True])
async def test_states_survive_a_checkpoint_with_their_types(bench: Bench, state: Any, nested: bool) -> None:
    graph = _graph(state)
    if nested:
        graph = StateGraph(state).add_node("inner", graph).add_edge(START, "inner").compile()
    payload = {"seen": []}
    async with bench.serve(graph) as runtime:
        await play(runtime, a_run(payload))
    async with bench.serve(graph) as runtime:
        ended = await play(runtime, await marked(runtime, a_run("yes", kind=InputKind.RESUME)))
    assert isinstance(ended.completed.output, dict)
    assert ended.completed.output["seen"] == ["Card", "Point", "Mood.GOOD"]
    assert ended.completed.output["card"] == {"title": "t", "point": {"x": 1, "mood": "good"}}


class Secretive(TypedDict, total=False):
    """Holds a type that the annotations do not name."""

    anything: Any
    seen: list[str]


def _hide(state: Secretive) -> dict[str, Any]:
    return {"anything": Point(x=1)}


def _find(state: Secretive) -> dict[str, Any]:
    interrupt("read?")
    return {"seen": [type(state.get("anything")).__name__]}


@pytest.mark.parametrize(("extra", "found"), [((), "dict"), ((f"{__name__}:Point", f"{__name__}:Mood"), "Point")])
async def test_unnamed_types_are_blocked_unless_a_setting_names_them(
    bench: Bench, extra: tuple[str, ...], found: str
) -> None:
    graph = StateGraph(Secretive).add_node("hide", _hide).add_node("find", _find)
    compiled = graph.add_edge(START, "hide").add_edge("hide", "find").compile()
    bench.extra_types = extra
    sys.modules.setdefault(__name__, sys.modules[_hide.__module__])
    async with bench.serve(compiled) as runtime:
        await play(runtime, a_run({"seen": []}))
        ended = await play(runtime, await marked(runtime, a_run("yes", kind=InputKind.RESUME)))
    assert isinstance(ended.completed.output, dict)
    assert ended.completed.output["seen"] == [found]


def test_an_extra_type_that_cannot_be_found_is_named() -> None:
    for name in ("no.such.module:Thing", f"{__name__}:Nothing", "json:dumps"):
        with pytest.raises(ConfigError, match=name):
            allowed_types(_graph(Typed), [name])


def test_the_doctor_hears_of_classes_that_would_be_lost() -> None:
    class Lossy(TypedDict):
        thing: Opaque
        many: list[Opaque | None]
        fine: Card

    graph = StateGraph(Lossy).add_node("fill", _fill).add_edge(START, "fill").compile()
    assert blocked_types(graph, allowed_types(graph, ())) == [f"{Opaque.__module__}:Opaque"]
    assert blocked_types(_graph(Typed), allowed_types(_graph(Typed), ())) == []


async def test_messages_under_another_key_are_found(bench: Bench) -> None:
    class Talk(TypedDict):
        talk: Annotated[list[Any], add_messages]

    async def node(state: Talk) -> dict[str, Any]:
        return {"talk": [("ai", "heard")]}

    async with bench.serve(StateGraph(Talk).add_node("node", node).add_edge(START, "node").compile()) as runtime:
        assert runtime.agents()[0].accepts_message
        assert set(runtime.message_input(AGENT, "hi")) == {"talk"}
        played = await play(runtime, a_run(runtime.message_input(AGENT, "hi")))
    assert played.completed.response == "heard"


async def test_a_functional_flow_takes_and_gives_any_value(bench: Bench) -> None:
    @entrypoint()
    async def double(n: int) -> int:
        return n * 2

    async with bench.serve(double) as runtime:
        assert not runtime.agents()[0].accepts_message
        played = await play(runtime, a_run(21))
    assert (played.completed.output, played.completed.response) == (42, "")


async def test_the_output_is_what_the_author_declared(bench: Bench) -> None:
    class Private(TypedDict, total=False):
        question: str
        secret: str
        answer: str

    class Out(TypedDict):
        answer: str

    class In(TypedDict):
        question: str

    graph = StateGraph(Private, input_schema=In, output_schema=Out)

    def node(state: Private) -> Private:
        return {"secret": "s", "answer": "a"}

    graph.add_node("node", node).add_edge(START, "node")
    async with bench.serve(graph.compile()) as runtime:
        schema = runtime.agents()[0].input_schema
        assert set(schema["properties"]) == {"question"}  # type: ignore[arg-type]
        played = await play(runtime, a_run({"question": "q"}))
    assert played.completed.output == {"answer": "a"}


async def test_context_reaches_the_nodes(bench: Bench) -> None:
    from langgraph.runtime import Runtime

    @dataclass
    class Context:
        name: str

    async def node(state: Typed, runtime: Runtime[Context]) -> dict[str, Any]:
        return {"seen": [runtime.context.name]}

    graph = StateGraph(Typed, context_schema=Context).add_node("node", node).add_edge(START, "node").compile()
    async with bench.serve(graph) as runtime:
        assert runtime.agents()[0].context_schema is not None
        runtime.check_input(AGENT, {"seen": []}, {"name": "ann"})
        played = await play(runtime, a_run({"seen": []}, context={"name": "ann"}))
    assert played.completed.output == {"seen": ["ann"], "points": []}


def test_compiled_in_parts_are_named(tmp_path: Path) -> None:
    graph = StateGraph(Typed).add_node("fill", _fill).add_edge(START, "fill").compile(checkpointer=InMemorySaver())
    (warning,) = replaced_parts(LoadedAgent(name=AGENT, graph=graph))
    assert "checkpointer" in warning


async def test_messages_kept_as_deltas_are_messages_too(bench: Bench) -> None:
    from langgraph.channels.delta import DeltaChannel
    from langgraph.graph import message

    reducer: Any = vars(message)["_messages_delta_reducer"]

    class Talk(TypedDict):
        messages: Annotated[list[Any], DeltaChannel(reducer)]

    async def node(state: Talk) -> dict[str, Any]:
        return {"messages": [("ai", f"{len(state['messages'])} heard")]}

    async with bench.serve(StateGraph(Talk).add_node("node", node).add_edge(START, "node").compile()) as runtime:
        for number, heard in ((1, "1 heard"), (2, "3 heard")):
            run = a_run(runtime.message_input(AGENT, "hi"), number=number)
            played = await play(runtime, run)
            assert played.completed.response == played.text == heard
        assert len((await runtime.thread_state(AGENT, ref_of(run))).messages) == 4
        again = await play(runtime, retried(run))
        assert again.completed.response == "3 heard"
