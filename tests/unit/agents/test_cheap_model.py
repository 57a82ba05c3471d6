"""Small talk is short, plain and needs no tool, and a thread that was more is never small talk again."""

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from roadworthy.agents.cheap_model import is_small_talk

SHORT = HumanMessage("hi there")
ANSWER = AIMessage("hello")
CALL = AIMessage("", tool_calls=[{"name": "search", "args": {}, "id": "1"}])
IMAGE = {"type": "image", "base64": "aGk=", "mime_type": "image/png"}


@pytest.mark.parametrize(
    "messages",
    [
        [SHORT],
        [SHORT, ANSWER, SHORT],
        [HumanMessage([{"type": "text", "text": "hi"}, {"type": "text", "text": "there"}])],
        [SHORT, AIMessage("a long answer " * 100), SHORT],
    ],
)
def test_short_texts_are_small_talk(messages: Any) -> None:
    assert is_small_talk(messages, below_chars=20)


@pytest.mark.parametrize(
    "messages",
    [
        [HumanMessage("x" * 20)],
        [HumanMessage("x" * 20), ANSWER, SHORT],
        [SHORT, CALL],
        [SHORT, CALL, ToolMessage("found", tool_call_id="1")],
        [SHORT, CALL, ToolMessage("found", tool_call_id="1"), ANSWER, SHORT],
        [HumanMessage([{"type": "text", "text": "what is this?"}, IMAGE])],
        [HumanMessage("a summary", additional_kwargs={"lc_source": "summarization"}), SHORT],
    ],
)
def test_long_messages_tools_pictures_and_summaries_are_not(messages: Any) -> None:
    assert not is_small_talk(messages, below_chars=20)


def test_the_bound_itself_is_long() -> None:
    assert is_small_talk([HumanMessage("x" * 19)], below_chars=20)
    assert not is_small_talk([HumanMessage("x" * 20)], below_chars=20)
