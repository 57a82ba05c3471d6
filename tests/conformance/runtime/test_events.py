"""What an attempt tells: text once, in order, of the agent only."""

from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.config import get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.runtime import Runtime

from roadworthy.domain.event import ContentDelta, CustomData, ToolCallFinished, ToolCallStarted
from roadworthy.domain.usage import ModelCall
from roadworthy.ports.runtime import Progress
from tests.conformance.runtime.playing import AGENT, Bench, Compiled, a_run, play
from tests.support.scripted_model import ScriptedCall, ScriptedChatModel, ScriptedTurn


def model(*turns: ScriptedTurn, **fields: Any) -> ScriptedChatModel:
    return ScriptedChatModel(turns=turns, **fields)


def one_node(node: Any, state: Any = MessagesState) -> Compiled:
    return StateGraph(state).add_node("node", node).add_edge(START, "node").compile()


@tool
def look_up(word: str) -> str:
    """Look a word up."""
    return f"{word} means a fruit"


async def test_an_agent_with_a_tool_tells_text_calls_and_usage_in_order(bench: Bench) -> None:
    turns = ScriptedTurn(text="Let me see. ", calls=(ScriptedCall(name="look_up", args={"word": "fig"}, id="c1"),))
    agent = create_agent(model(turns, ScriptedTurn(text="A fruit.")), [look_up])
    async with bench.serve(agent) as runtime:
        played = await play(runtime, a_run(runtime.message_input(AGENT, "fig?")), first=True)
    assert played.completed.response == "A fruit."
    told = [event for event in played.events if not isinstance(event, ContentDelta | Progress)]
    assert [type(event) for event in told] == [ModelCall, ToolCallStarted, ToolCallFinished, ModelCall]
    started, finished = played.of(ToolCallStarted)[0], played.of(ToolCallFinished)[0]
    assert (started.id, started.name, started.args) == ("c1", "look_up", {"word": "fig"})
    assert (finished.id, finished.result, finished.error) == ("c1", "fig means a fruit", None)
    texts: dict[str, str] = {}
    for delta in played.of(ContentDelta):
        texts[delta.message_id] = texts.get(delta.message_id, "") + delta.text
        assert delta.node == "model"
    assert list(texts.values()) == ["Let me see. ", "A fruit."]
    first, second = played.of(ModelCall)
    assert (first.outcome, first.estimated, first.provider, first.model) == ("complete", False, "scripted", "scripted")
    assert first.tokens.output > 0
    assert second.call_id != first.call_id
    assert [first.message_id, second.message_id] == list(texts)


async def test_a_message_that_a_node_returns_whole_is_told_once(bench: Bench) -> None:
    async def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage("Hello."), HumanMessage("not this")]}

    async with bench.serve(one_node(node)) as runtime:
        for number in (1, 2):
            played = await play(runtime, a_run(runtime.message_input(AGENT, "hi"), number=number), first=number == 1)
            assert [delta.text for delta in played.of(ContentDelta)] == ["Hello."]
            assert played.completed.response == "Hello."


async def test_a_streamed_message_is_not_told_again_by_its_node(bench: Bench) -> None:
    speaker = model(ScriptedTurn(text="One two three."))

    async def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await speaker.ainvoke(state["messages"])]}

    async with bench.serve(one_node(node)) as runtime:
        played = await play(runtime, a_run(runtime.message_input(AGENT, "hi")))
    assert played.text == "One two three."
    assert len(played.of(ContentDelta)) > 1


async def test_answers_given_with_the_input_are_not_told(bench: Bench) -> None:
    async def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage("new")]}

    history = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "old"},
        {"role": "user", "content": "b"},
    ]
    async with bench.serve(one_node(node)) as runtime:
        played = await play(runtime, a_run({"messages": history}))
    assert played.text == "new"


async def test_a_run_without_an_answer_has_an_empty_response(bench: Bench) -> None:
    async def node(state: MessagesState) -> dict[str, Any]:
        last = str(state["messages"][-1].content)
        return {"messages": [AIMessage("yes")]} if last == "speak" else {}

    async with bench.serve(one_node(node)) as runtime:
        await play(runtime, a_run(runtime.message_input(AGENT, "speak")))
        played = await play(runtime, a_run(runtime.message_input(AGENT, "be quiet")))
    assert played.completed.response == ""
    assert played.text == ""


async def test_custom_data_keeps_its_place_among_text(bench: Bench) -> None:
    speaker = model(ScriptedTurn(text="abcd" * 2))

    async def node(state: MessagesState, runtime: Runtime) -> dict[str, Any]:
        runtime.stream_writer({"at": "begin"})
        answer = await speaker.ainvoke(state["messages"])
        get_stream_writer()({"at": "end"})
        return {"messages": [answer]}

    async with bench.serve(one_node(node)) as runtime:
        played = await play(runtime, a_run(runtime.message_input(AGENT, "hi")))
    told = [
        e.data if isinstance(e, CustomData) else e.text
        for e in played.events
        if isinstance(e, CustomData | ContentDelta)
    ]
    assert told == [{"at": "begin"}, "abcd", "abcd", {"at": "end"}]


async def test_text_of_a_nostream_model_comes_whole_or_not_at_all(bench: Bench) -> None:
    hidden = model(ScriptedTurn(text="a hidden thought")).with_config(RunnableConfig(tags=["nostream"]))
    open_ = model(ScriptedTurn(text="an answer in pieces")).with_config(RunnableConfig(tags=["nostream"]))

    async def node(state: MessagesState) -> dict[str, Any]:
        await hidden.ainvoke(state["messages"])
        return {"messages": [await open_.ainvoke(state["messages"])]}

    async with bench.serve(one_node(node)) as runtime:
        played = await play(runtime, a_run(runtime.message_input(AGENT, "hi")))
    assert [delta.text for delta in played.of(ContentDelta)] == ["an answer in pieces"]
    assert len(played.of(ModelCall)) == 2


async def test_what_a_model_says_inside_a_tool_is_no_content(bench: Bench) -> None:
    helper = create_agent(model(ScriptedTurn(text="a helper's words")), [])

    @tool
    async def ask_helper(question: str) -> str:
        """Ask a helper."""
        answer = await helper.ainvoke({"messages": [{"role": "user", "content": question}]})
        return answer["messages"][-1].text

    turns = ScriptedTurn(calls=(ScriptedCall(name="ask_helper", args={"question": "?"}, id="c1"),))
    agent = create_agent(model(turns, ScriptedTurn(text="Done.")), [ask_helper])
    async with bench.serve(agent) as runtime:
        played = await play(runtime, a_run(runtime.message_input(AGENT, "hi")))
    assert played.text == "Done."
    assert played.of(ToolCallFinished)[0].result == "a helper's words"
    assert len(played.of(ModelCall)) == 3


async def test_models_are_watched_although_the_author_passes_no_callbacks(bench: Bench) -> None:
    speaker = model(ScriptedTurn(text="quietly"))

    async def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await speaker.ainvoke(state["messages"], {"callbacks": []})]}

    async with bench.serve(one_node(node)) as runtime:
        played = await play(runtime, a_run(runtime.message_input(AGENT, "hi")))
    assert len(played.of(ModelCall)) == 1
    assert played.text == "quietly"


async def test_a_sync_graph_tells_the_same_from_its_threads(bench: Bench) -> None:
    speaker = model(ScriptedTurn(text="One two three."))

    def node(state: MessagesState, runtime: Runtime) -> dict[str, Any]:
        runtime.stream_writer("from a thread")
        return {"messages": [speaker.invoke(state["messages"])]}

    async with bench.serve(one_node(node)) as runtime:
        played = await play(runtime, a_run(runtime.message_input(AGENT, "hi")))
    assert played.text == played.completed.response == "One two three."
    assert len(played.of(ContentDelta)) > 1
    assert played.of(CustomData)[0].data == "from a thread"


async def test_a_subgraphs_model_speaks_for_the_agent(bench: Bench) -> None:
    speaker = model(ScriptedTurn(text="from below"))

    async def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await speaker.ainvoke(state["messages"])]}

    async with bench.serve(one_node(one_node(node))) as runtime:
        played = await play(runtime, a_run(runtime.message_input(AGENT, "hi")))
    assert played.text == played.completed.response == "from below"


async def test_thinking_is_neither_content_nor_response(bench: Bench) -> None:
    async def node(state: MessagesState) -> dict[str, Any]:
        blocks: Any = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Yes."}]
        return {"messages": [AIMessage(blocks)]}

    async with bench.serve(one_node(node)) as runtime:
        played = await play(runtime, a_run(runtime.message_input(AGENT, "hi")))
    assert played.text == played.completed.response == "Yes."


async def test_structured_output_is_given_apart(bench: Bench) -> None:
    class State(MessagesState, total=False):
        structured_response: dict[str, int]

    async def node(state: State) -> dict[str, Any]:
        return {"structured_response": {"n": 1}}

    async with bench.serve(one_node(node, State)) as runtime:
        played = await play(runtime, a_run(runtime.message_input(AGENT, "hi")))
    assert played.completed.structured_response == {"n": 1}
