"""Texts, roles and user messages."""

import logging
from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from roadworthy.domain.errors import InvalidRequest
from roadworthy.runtimes.langgraph import stop_fields
from roadworthy.runtimes.langgraph.messages import human_message, text_of, to_message
from roadworthy.runtimes.langgraph.repair import repaired_input, unanswered_calls
from roadworthy.runtimes.langgraph.stop_fields import is_cut
from roadworthy.runtimes.langgraph.tokens import as_tokens, estimate


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("plain", "plain"),
        ([], ""),
        (["a", {"type": "text", "text": "b"}], "ab"),
        ([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "b"}], "b"),
        ([{"type": "tool_use", "name": "x", "input": {}}, {"type": "text"}], ""),
        (None, ""),
        (3, ""),
    ],
)
def test_the_text_of_a_content_is_its_text_blocks(content: object, text: str) -> None:
    assert text_of(content) == text


@pytest.mark.parametrize(
    ("message", "role"),
    [
        (HumanMessage("x"), "user"),
        (AIMessage("x"), "assistant"),
        (AIMessageChunk(content="x"), "assistant"),
        (SystemMessage("x"), "system"),
        (ToolMessage("x", tool_call_id="c"), "tool"),
        (FunctionMessage(content="x", name="f"), "tool"),
        (ChatMessage(content="x", role="critic"), "critic"),
    ],
)
def test_roles_are_those_that_clients_know(message: BaseMessage, role: str) -> None:
    assert to_message(message).role == role


def test_an_answer_keeps_its_calls_and_a_result_its_call() -> None:
    answer = to_message(AIMessage("", id="m", tool_calls=[{"name": "t", "args": {"a": 1}, "id": "c"}]))
    assert answer.tool_calls == ({"id": "c", "name": "t", "args": {"a": 1}},)
    assert to_message(ToolMessage("r", tool_call_id="c", name="t")).tool_call_id == "c"


def test_a_text_becomes_a_user_message_with_an_id() -> None:
    one, two = human_message("hi\udc80"), human_message("hi")
    assert one["content"] == "hi?"
    assert one["id"] != two["id"]


@pytest.mark.parametrize(
    "content",
    [
        None, 3, {}, [], [3], ["text"], [{}], [{"type": ""}], [{"type": 3}], [{"type": "text"}],
        [{"type": "text", "text": "a"}] * 101,
    ],
)  # fmt: skip
def test_what_is_no_message_is_refused_with_its_place(content: Any) -> None:
    with pytest.raises(InvalidRequest) as raised:
        human_message(content)
    assert raised.value.field is not None
    assert raised.value.field.startswith("message")


CALLS: Any = [{"name": "t", "args": {}, "id": "a"}, {"name": "t", "args": {}, "id": "b"}]


@pytest.mark.parametrize(
    ("messages", "missing"),
    [
        ([], []),
        ([HumanMessage("x")], []),
        ([AIMessage("x")], []),
        ([AIMessage("", tool_calls=CALLS)], ["a", "b"]),
        ([AIMessage("", tool_calls=CALLS), ToolMessage("r", tool_call_id="b")], ["a"]),
        ([AIMessage("", tool_calls=CALLS), ToolMessage("r", tool_call_id="b"), ToolMessage("r", tool_call_id="a")], []),
        ([AIMessage("", tool_calls=CALLS), HumanMessage("x")], []),
    ],
)
def test_calls_without_a_result_are_found(messages: list[BaseMessage], missing: list[str]) -> None:
    assert [id_ for id_, _ in unanswered_calls(messages)] == missing


def test_results_go_in_front_of_the_input_the_real_ones_if_there_are_any() -> None:
    real = ToolMessage("done", tool_call_id="a")
    for given, own in (({"m": [1, 2]}, [1, 2]), ({"m": "x"}, ["x"]), ({}, [])):
        repaired: Any = repaired_input(given, "m", [("a", "t"), ("b", "t")], [real])
        first, second, *rest = repaired["m"]
        assert first is real
        assert (second.tool_call_id, second.status) == ("b", "error")
        assert rest == own


@pytest.mark.parametrize(
    ("metadata", "provider", "cut"),
    [
        ({"stop_reason": "end_turn"}, "anthropic", False),
        ({"stop_reason": None}, "anthropic", True),
        ({}, "anthropic", True),
        ({"finish_reason": "stop"}, "openai", False),
        ({"status": "completed"}, "openai", False),
        ({}, "openai", True),
        ({}, "azure", True),
        ({}, "google_genai", True),
        ({"done_reason": "stop"}, "ollama", False),
        ({}, "ollama", True),
        ({}, "somebody", None),
        ({}, "", None),
        ({"model_provider": "anthropic"}, "", True),
    ],
)
def test_a_message_without_its_providers_stop_field_is_cut(metadata: Any, provider: str, cut: bool | None) -> None:
    assert is_cut(AIMessage("x", response_metadata=metadata), provider) is cut


def test_a_provider_that_is_not_judged_is_named_in_the_log_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    stop_fields.note_unjudged.cache_clear()
    for provider in ("newcomer", "anthropic", "newcomer", "", "roadworthy", "another", ""):
        is_cut(AIMessage("x", response_metadata={"stop_reason": "end_turn"}), provider)
    is_cut(AIMessage("x", response_metadata={"model_provider": "newcomer"}), "another")
    assert [record.levelname for record in caplog.records] == ["INFO"] * 3
    texts = [record.getMessage() for record in caplog.records]
    assert [name in text for name, text in zip(["newcomer", "unnamed", "another"], texts, strict=True)] == [True] * 3


def test_tokens_are_counted_with_all_kinds_of_cache() -> None:
    details: Any = {
        "cache_read": 3,
        "cache_creation": 0,
        "ephemeral_5m_input_tokens": 4,
        "ephemeral_1h_input_tokens": 5,
    }
    usage: Any = {
        "input_tokens": 20, "output_tokens": 7, "total_tokens": 27,
        "input_token_details": details, "output_token_details": {"reasoning": 2},
    }  # fmt: skip
    tokens = as_tokens(usage)
    assert (tokens.input, tokens.output, tokens.cache_read, tokens.cache_write, tokens.reasoning) == (20, 7, 3, 9, 2)


def test_estimates_grow_with_prompt_and_answer() -> None:
    small, large = estimate([HumanMessage("x" * 40)], 9), estimate([HumanMessage("x" * 400)], 90)
    assert (small.output, large.output) == (3, 23)
    assert 10 < small.input < large.input
