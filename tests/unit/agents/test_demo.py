"""The demo agent answers from the docs by a real tool call, streams it, and is honest about what it is."""

from pathlib import Path

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver

from roadworthy.agents import demo


def _user(content: object) -> demo.InputAgentState:
    return {"messages": [{"role": "user", "content": content}]}


def _streamed_text(part: object) -> str:
    match part:
        case (AIMessageChunk() as chunk, _):
            return chunk.text
        case _:
            return ""


async def test_a_question_becomes_a_tool_call_and_a_quoted_answer(docs: Path) -> None:
    state = await demo.build(docs).ainvoke(_user("How do I cancel a run?"))
    _, call, result, answer = state["messages"]
    assert isinstance(call, AIMessage)
    assert [(c["name"], c["args"]) for c in call.tool_calls] == [("search_docs", {"query": "How do I cancel a run?"})]
    assert isinstance(result, ToolMessage)
    assert result.tool_call_id == call.tool_calls[0]["id"]
    assert "POST /agent/runs/{run_id}/cancel" in answer.text
    assert "Source: docs/http-api.md#cancel-a-run" in answer.text
    assert "no language model" in answer.text


async def test_both_model_messages_carry_usage_model_and_stop_reason(docs: Path) -> None:
    state = await demo.build(docs).ainvoke(_user("How do I cancel a run?"))
    models = [m for m in state["messages"] if isinstance(m, AIMessage)]
    assert [m.response_metadata["stop_reason"] for m in models] == ["tool_use", "end_turn"]
    assert {m.response_metadata["model_name"] for m in models} == {"roadworthy-demo"}
    for message in models:
        usage = message.usage_metadata
        assert usage is not None
        assert usage["input_tokens"] > 0
        assert usage["output_tokens"] > 0
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


async def test_the_answer_streams_word_by_word(docs: Path) -> None:
    parts = demo.build(docs).astream(_user("How do I cancel a run?"), stream_mode="messages")
    words = [text async for part in parts if (text := _streamed_text(part))]
    assert all(len(word.split()) <= 1 for word in words)
    assert len(words) > 20
    whole = await demo.build(docs).ainvoke(_user("How do I cancel a run?"))
    assert "".join(words) == whole["messages"][-1].text


async def test_a_streamed_turn_leaves_the_same_messages_as_an_invoked_one(docs: Path) -> None:
    graph = demo.build(docs)
    graph.checkpointer = InMemorySaver()
    config: RunnableConfig = {"configurable": {"thread_id": "one"}}
    async for _ in graph.astream(_user("cancel a run"), config, stream_mode="messages"):
        pass
    streamed = (await graph.aget_state(config)).values["messages"]
    invoked = (await demo.build(docs).ainvoke(_user("cancel a run")))["messages"]
    shapes = [[(m.type, m.text, getattr(m, "tool_calls", None)) for m in turn] for turn in (streamed, invoked)]
    assert shapes[0] == shapes[1]


def test_it_runs_without_an_event_loop_too(docs: Path) -> None:
    graph = demo.build(docs)
    answer = graph.invoke(_user("How do I cancel a run?"))["messages"][-1].text
    words = [_streamed_text(part) for part in graph.stream(_user("How do I cancel a run?"), stream_mode="messages")]
    assert "".join(words) == answer


@pytest.mark.parametrize("question", ["What is the weather in Paris?", "tell me a joke about dogs"])
async def test_it_says_that_it_found_nothing_when_it_did(docs: Path, question: str) -> None:
    state = await demo.build(docs).ainvoke(_user(question))
    assert state["messages"][-2].text == "[]"
    assert "found nothing" in state["messages"][-1].text
    assert "Source:" not in state["messages"][-1].text


async def test_a_title_that_asks_is_not_followed_by_a_colon(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# Is it quick?\n\nIt is quick.\n\n# Slowness\n\nThere is slowness.\n")
    graph = demo.build(tmp_path)
    assert (await graph.ainvoke(_user("quick")))["messages"][-1].text.startswith("Is it quick?\n\nIt is quick.")
    assert (await graph.ainvoke(_user("slowness")))["messages"][-1].text.startswith("Slowness:\n\nThere")


async def test_without_docs_it_says_that_it_found_nothing(tmp_path: Path) -> None:
    state = await demo.build(tmp_path).ainvoke(_user("How do I cancel a run?"))
    assert "found nothing" in state["messages"][-1].text


@pytest.mark.parametrize("greeting", ["hi", "Hello!", "what are you?", "thanks", "?"])
async def test_a_greeting_is_answered_by_what_it_is_without_a_search(docs: Path, greeting: str) -> None:
    state = await demo.build(docs).ainvoke(_user(greeting))
    assert len(state["messages"]) == 2
    assert "no language model" in state["messages"][-1].text


async def test_a_follow_up_on_the_same_thread_is_answered_for_itself(docs: Path) -> None:
    graph = demo.build(docs).copy(update={"checkpointer": InMemorySaver()})
    config: RunnableConfig = {"configurable": {"thread_id": "one"}}
    for question in ("How do I cancel a run?", "hello", "How do I cancel a run?"):
        await graph.ainvoke(_user(question), config)
    state = await graph.ainvoke(_user("what about authentication"), config)
    assert "Source: docs/operations.md#keys" in state["messages"][-1].text
    calls = [c["id"] for m in state["messages"] if isinstance(m, AIMessage) for c in m.tool_calls]
    assert len(calls) == 3
    assert len(set(calls)) == 3


async def test_only_the_text_of_content_blocks_is_read(docs: Path) -> None:
    image = {"type": "image", "base64": "aGk=", "mime_type": "image/png"}
    state = await demo.build(docs).ainvoke(_user([image, {"type": "text", "text": "cancel a run"}]))
    assert "Source: docs/http-api.md#cancel-a-run" in state["messages"][-1].text
    state = await demo.build(docs).ainvoke(_user([image]))
    assert "no language model" in state["messages"][-1].text


async def test_a_failed_search_is_not_passed_off_as_an_answer(docs: Path) -> None:
    history = [
        HumanMessage("How do I cancel a run?"),
        AIMessage("", tool_calls=[{"name": "search_docs", "args": {"query": "x"}, "id": "call_1"}]),
        ToolMessage("Error: it broke", tool_call_id="call_1", status="error"),
    ]
    reply = await demo.ExtractiveModel().ainvoke(history)
    assert "found nothing" in reply.text


async def test_a_turn_after_an_unanswered_call_begins_anew(docs: Path) -> None:
    history = [
        HumanMessage("How do I cancel a run?"),
        AIMessage("", tool_calls=[{"name": "search_docs", "args": {"query": "x"}, "id": "call_1"}]),
        ToolMessage("The run ended before this tool did.", tool_call_id="call_1", status="error"),
        HumanMessage("Which port?"),
    ]
    reply = await demo.ExtractiveModel().ainvoke(history)
    assert [call["args"] for call in reply.tool_calls] == [{"query": "Which port?"}]
