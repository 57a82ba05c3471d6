"""An attempt that dies anywhere is continued by the next: nothing lost, nothing twice, nothing answered unasked.

Each scenario is repeated with a crash after each single write to the checkpoints.
"""

import operator
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from langgraph.func import entrypoint, task
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Send, interrupt
from typing_extensions import TypedDict

from roadworthy.domain.errors import AgentFailed
from roadworthy.domain.event import ContentDelta
from roadworthy.domain.json import JsonValue
from roadworthy.domain.run import InputKind, Run
from roadworthy.domain.thread import Message
from roadworthy.ports.runtime import Completed, Paused
from roadworthy.runtimes.langgraph.runtime import LangGraphRuntime
from tests.conformance.runtime.playing import Bench, Played, a_run, crash_after, marked, play, ref_of, retried

MAX_WRITES = 30


class Answers(TypedDict, total=False):
    """Who was told what."""

    answers: Annotated[list[str], operator.add]


def _two_questions(state: Answers) -> Answers:
    first = interrupt("one?")
    second = interrupt("two?")
    return {"answers": [first, second]}


def _graph_of_two_questions() -> Any:
    return StateGraph(Answers).add_node("ask", _two_questions).add_edge(START, "ask").compile()


def _graph_with_subgraph() -> Any:
    inner = StateGraph(Answers).add_node("ask", _two_questions).add_edge(START, "ask").compile()
    return StateGraph(Answers).add_node("inner", inner).add_edge(START, "inner").compile()


def _functional() -> Any:
    @task
    async def first() -> str:
        return interrupt("one?")

    @entrypoint()
    async def flow(_: Answers) -> Answers:
        one = await first()
        two = interrupt("two?")
        return {"answers": [one, two]}

    return flow


async def _twice(
    runtime: LangGraphRuntime, run: Run, writes: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[Played, bool]:
    """Play the run, crashing after so many writes, and again until it ends. Whether it crashed at all.

    Then once more, as if only the run's row had not heard of the end: it must end in the same way.
    """
    run = await marked(runtime, run)
    with crash_after(runtime, writes, monkeypatch) as refused:
        played = await play(runtime, run)
    if refused[0]:
        run = retried(run)
        played = await play(runtime, run)
    again = await play(runtime, retried(run))
    assert again.outcome == played.outcome
    assert again.questions == played.questions
    return played, bool(refused[0])


@pytest.mark.parametrize("make", [_graph_of_two_questions, _graph_with_subgraph, _functional])
async def test_each_question_is_asked_and_answered_once_wherever_a_resume_dies(
    bench: Bench, make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    crashes = 0
    async with bench.serve(make()) as runtime:
        for writes in range(MAX_WRITES):
            thread = f"t{writes}"
            asked, crashed = await _twice(runtime, a_run({"answers": []}, thread=thread), writes, monkeypatch)
            assert list(asked.questions.values()) == ["one?"]
            resume = a_run("first", kind=InputKind.RESUME, thread=thread)
            asked, crashed_again = await _twice(runtime, resume, writes, monkeypatch)
            assert list(asked.questions.values()) == ["two?"], f"crash after {writes} writes"
            resume = a_run("second", kind=InputKind.RESUME, thread=thread)
            ended, crashed_at_last = await _twice(runtime, resume, writes, monkeypatch)
            assert ended.completed.output == {"answers": ["first", "second"]}
            crashes += crashed + crashed_again + crashed_at_last
            if not (crashed or crashed_again or crashed_at_last):
                break
        assert crashes >= 3


def _graph_of_parallel_questions() -> Any:
    def ask(name: str) -> Any:
        def node(state: Answers) -> Answers:
            return {"answers": [f"{name}={interrupt(name)}"]}

        return node

    graph = StateGraph(Answers)
    for name in ("a", "b"):
        graph.add_node(name, ask(name))
        graph.add_edge(START, name)
    return graph.compile()


async def test_parallel_questions_are_answered_by_their_ids_wherever_the_resume_dies(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench.serve(_graph_of_parallel_questions()) as runtime:
        for writes in range(MAX_WRITES):
            thread = f"t{writes}"
            asked = await play(runtime, a_run({"answers": []}, thread=thread))
            ids = {str(value): id_ for id_, value in asked.questions.items()}
            assert set(ids) == {"a", "b"}
            resume = a_run({ids["a"]: "1", ids["b"]: "2"}, kind=InputKind.RESUME, thread=thread)
            ended, crashed = await _twice(runtime, resume, writes, monkeypatch)
            assert ended.completed.output == {"answers": ["a=1", "b=2"]}
            if not crashed:
                return
    pytest.fail("it never ran without a crash")


async def test_one_of_two_questions_may_be_answered_first(bench: Bench) -> None:
    async with bench.serve(_graph_of_parallel_questions()) as runtime:
        asked = await play(runtime, a_run({"answers": []}))
        ids = {str(value): id_ for id_, value in asked.questions.items()}
        half = await play(runtime, await marked(runtime, a_run({ids["b"]: "2"}, kind=InputKind.RESUME)))
        assert half.questions == {ids["a"]: "a"}
        whole = await play(runtime, await marked(runtime, a_run("1", kind=InputKind.RESUME)))
        assert whole.completed.output == {"answers": ["a=1", "b=2"]}


async def test_one_value_for_two_questions_is_refused_and_both_stay_open(bench: Bench) -> None:
    async with bench.serve(_graph_of_parallel_questions()) as runtime:
        asked = await play(runtime, a_run({"answers": []}))
        refused = await play(runtime, await marked(runtime, a_run("yes", kind=InputKind.RESUME)))
        assert isinstance(refused.error, AgentFailed)
        assert "ids" in refused.error.message
        answers: dict[str, JsonValue] = dict.fromkeys(asked.questions, "x")
        ended = await play(runtime, await marked(runtime, a_run(answers, kind=InputKind.RESUME)))
        assert ended.completed.output == {"answers": ["a=x", "b=x"]}


class Chat(MessagesState):
    """A conversation that counts its steps."""

    steps: Annotated[int, operator.add]


def _chat() -> Any:
    def think(state: Chat) -> dict[str, object]:
        return {"steps": 1}

    def answer(state: Chat) -> dict[str, object]:
        said = [str(message.content) for message in state["messages"] if message.type == "human"]
        return {"messages": [("ai", f"You said {len(said)}: {said[-1]}")], "steps": 1}

    graph = StateGraph(Chat).add_node("think", think).add_node("answer", answer)
    return graph.add_edge(START, "think").add_edge("think", "answer").compile()


async def test_no_message_is_lost_or_doubled_wherever_a_run_dies(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench.serve(_chat()) as runtime:
        for writes in range(MAX_WRITES):
            thread = f"t{writes}"
            await play(runtime, a_run(runtime.message_input(AGENT_NAME, "hello"), thread=thread), first=True)
            run = a_run(runtime.message_input(AGENT_NAME, "again"), thread=thread)
            ended, crashed = await _twice(runtime, run, writes, monkeypatch)
            assert ended.completed.response == "You said 2: again"
            state = await runtime.thread_state(AGENT_NAME, ref_of(run))
            assert _said(state.messages) == ["hello", "You said 1: hello", "again", "You said 2: again"]
            assert isinstance(state.values, dict)
            assert state.values["steps"] == 4
            if not crashed:
                return
    pytest.fail("it never ran without a crash")


async def test_a_finished_graph_is_not_run_again_when_only_its_row_was_lost(bench: Bench) -> None:
    async with bench.serve(_chat()) as runtime:
        run = a_run(runtime.message_input(AGENT_NAME, "hello"))
        first = await play(runtime, run, first=True)
        told = [one.message_id for one in first.of(ContentDelta)]
        again = await play(runtime, retried(run), told=told)
        assert again.outcome == first.outcome
        assert again.text == ""


async def test_a_new_message_survives_when_it_follows_a_run_that_failed_with_work_pending(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench.serve(_chat()) as runtime:
        failed = a_run(runtime.message_input(AGENT_NAME, "lost?"))
        with crash_after(runtime, 3, monkeypatch):
            await play(runtime, failed)
        run = a_run(runtime.message_input(AGENT_NAME, "kept"))
        with crash_after(runtime, 0, monkeypatch):
            await play(runtime, run)
        ended = await play(runtime, retried(run))
        assert ended.completed.response.endswith("kept")


def _breakpoint(**where: Any) -> Any:
    def node(name: str) -> Any:
        def step(state: Answers) -> Answers:
            return {"answers": [name]}

        return step

    graph = StateGraph(Answers).add_node("before", node("before")).add_node("after", node("after"))
    graph.add_edge(START, "before").add_edge("before", "after")
    return graph.compile(**where)


@pytest.mark.parametrize(
    "where",
    [
        {"interrupt_before": ["after"]},
        {"interrupt_after": ["before"]},
        {"interrupt_before": "*"},
        {"interrupt_after": "*"},
    ],
)
async def test_a_breakpoint_is_never_passed_by_a_crash(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, where: dict[str, Any]
) -> None:
    async with bench.serve(_breakpoint(**where)) as runtime:
        for writes in range(MAX_WRITES):
            thread = f"t{writes}"
            steps: list[object] = []
            crashed = False
            for number in range(4):
                run = a_run({"answers": []}, thread=thread)
                if number:
                    run = await marked(runtime, a_run(True, kind=InputKind.RESUME, thread=thread))
                played, crashed = await _twice(runtime, run, writes, monkeypatch)
                assert isinstance(played.outcome, Completed | Paused)
                steps.append((type(played.outcome), played.outcome.output))
                if isinstance(played.outcome, Completed):
                    break
            plain = [(type(one.outcome), one.outcome.output) for one in await _uncrashed(runtime, thread)]
            assert steps == plain
            if not crashed:
                return
    pytest.fail("it never ran without a crash")


async def _uncrashed(runtime: LangGraphRuntime, thread: str) -> list[Any]:
    played = [await play(runtime, a_run({"answers": []}, thread=f"plain-{thread}"))]
    while isinstance(played[-1].outcome, Paused):
        run = a_run(True, kind=InputKind.RESUME, thread=f"plain-{thread}")
        played.append(await play(runtime, await marked(runtime, run)))
    return played


def _fan_out() -> Any:
    def spread(state: Answers) -> list[Send]:
        return [Send("work", {"answers": [str(number)]}) for number in range(3)]

    def work(state: Answers) -> Answers:
        return {"answers": state.get("answers", [])}

    graph = StateGraph(Answers).add_node("work", work)
    graph.add_conditional_edges(START, spread, ["work"])
    return graph.compile()


async def test_sent_work_is_done_once_wherever_the_run_dies(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench.serve(_fan_out()) as runtime:
        for writes in range(MAX_WRITES):
            ended, crashed = await _twice(runtime, a_run({"answers": []}, thread=f"t{writes}"), writes, monkeypatch)
            assert isinstance(ended.outcome, Completed)
            assert ended.completed.output == {"answers": ["0", "1", "2"]}
            if not crashed:
                return
    pytest.fail("it never ran without a crash")


async def test_going_on_needs_no_input(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench.serve(_chat()) as runtime:
        with crash_after(runtime, 3, monkeypatch):
            await play(runtime, a_run(runtime.message_input(AGENT_NAME, "hello")))
        ended = await play(runtime, a_run(kind=InputKind.CONTINUE))
        assert ended.completed.response == "You said 1: hello"


def _said(messages: tuple[Message, ...]) -> list[JsonValue]:
    return [message.content for message in messages]


AGENT_NAME = a_run().agent
