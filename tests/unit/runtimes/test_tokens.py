"""Token counts: what providers' clients report becomes ours once, and what they do not report is estimated."""

from typing import Any

import pytest
from anthropic.types import CacheCreation, Usage
from langchain_anthropic.chat_models import _create_usage_metadata as anthropic_usage  # pyright: ignore[reportPrivateUsage]
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_openai.chat_models.base import _create_usage_metadata as openai_usage  # pyright: ignore[reportPrivateUsage]
from langchain_openai.chat_models.base import _create_usage_metadata_responses as openai_responses_usage  # pyright: ignore[reportPrivateUsage]

from roadworthy.domain.usage import Tokens
from roadworthy.runtimes.langgraph.tokens import (
    answer_chars,
    as_tokens,
    estimate_input,
    is_contradictory,
    silent_chars,
    usage_of,
)


def usage(input_tokens: int, output_tokens: int, inputs: Any = None, outputs: Any = None) -> Any:
    return {
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "total_tokens": input_tokens + output_tokens,
        "input_token_details": inputs or {},
        "output_token_details": outputs or {},
    }


@pytest.mark.parametrize(
    ("by_lifetime", "write_1h"),
    [
        (None, 0),
        (CacheCreation(ephemeral_5m_input_tokens=90, ephemeral_1h_input_tokens=0), 0),
        (CacheCreation(ephemeral_5m_input_tokens=50, ephemeral_1h_input_tokens=40), 40),
    ],
)
def test_anthropics_cache_is_part_of_the_input_and_counted_once(by_lifetime: Any, write_1h: int) -> None:
    reported = Usage(
        input_tokens=10,
        output_tokens=7,
        cache_read_input_tokens=800,
        cache_creation_input_tokens=90,
        cache_creation=by_lifetime,
    )
    assert as_tokens(anthropic_usage(reported)) == Tokens(
        input=900, output=7, cache_read=800, cache_write=90, cache_write_1h=write_1h
    )


def test_cache_writes_told_both_as_a_sum_and_by_lifetime_are_counted_once() -> None:
    both = {"cache_creation": 90, "ephemeral_5m_input_tokens": 50, "ephemeral_1h_input_tokens": 40}
    tokens = as_tokens(usage(100, 1, both))
    assert (tokens.cache_write, tokens.cache_write_1h) == (90, 40)


@pytest.mark.parametrize("tier", [None, "default", "flex", "priority"])
def test_openais_cached_and_reasoning_tokens_are_found_in_every_tier(tier: str | None) -> None:
    chat = {
        "prompt_tokens": 1_000,
        "completion_tokens": 300,
        "prompt_tokens_details": {"cached_tokens": 600, "cache_write_tokens": 50},
        "completion_tokens_details": {"reasoning_tokens": 200},
    }
    responses = {
        "input_tokens": 1_000,
        "output_tokens": 300,
        "input_tokens_details": {"cached_tokens": 600, "cache_write_tokens": 50},
        "output_tokens_details": {"reasoning_tokens": 200},
    }
    expected = Tokens(input=1_000, output=300, cache_read=600, cache_write=50, reasoning=200)
    assert as_tokens(openai_usage(chat, tier)) == expected
    assert as_tokens(openai_responses_usage(responses, tier)) == expected


def test_googles_thoughts_and_cached_content_are_parts_of_their_wholes() -> None:
    assert as_tokens(usage(1_000, 300, {"cache_read": 600}, {"reasoning": 200})) == Tokens(
        input=1_000, output=300, cache_read=600, reasoning=200
    )


def test_a_part_larger_than_its_whole_was_not_counted_in_and_is_flagged() -> None:
    torn = usage(10, 5, {"cache_read": 600, "cache_creation": 90}, {"reasoning": 200})
    assert as_tokens(torn) == Tokens(input=700, output=205, cache_read=600, cache_write=90, reasoning=200)
    assert is_contradictory(torn)
    assert not is_contradictory(usage(700, 205, {"cache_read": 600}, {"reasoning": 205}))


def test_counts_that_are_no_counts_are_zero() -> None:
    odd: Any = {"input_tokens": -3, "output_tokens": None, "input_token_details": {"cache_read": "7"}}
    assert as_tokens(odd) == Tokens()


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (HumanMessage("x"), False),
        (AIMessage("x"), False),
        (AIMessage("x", usage_metadata=usage(0, 0)), False),
        (AIMessage("x", usage_metadata=usage(3, 0)), True),
    ],
)
def test_nothing_but_zeros_says_nothing(message: BaseMessage, said: bool) -> None:
    assert (usage_of(message) is not None) is said


def test_a_prompt_is_counted_with_system_tools_and_calls() -> None:
    call: Any = {"name": "fell", "args": {"tree": "oak"}, "id": "1"}
    prompt = [
        SystemMessage("s" * 40),
        HumanMessage([{"type": "text", "text": "h" * 40}]),
        AIMessage(
            [
                {"type": "thinking", "thinking": "t" * 40, "signature": "g" * 400},
                {"type": "tool_use", "name": "fell", "input": {"tree": "oak"}, "id": "1"},
            ],
            tool_calls=[call],
        ),
        ToolMessage("r" * 40, tool_call_id="1"),
    ]
    # Four times 10 tokens of text and 3 around it; `fell{"tree": "oak"}` are 19 characters, rounded up with the text.
    assert estimate_input(prompt) == 4 * (10 + 3) + 5
    assert estimate_input(prompt, [{"name": "x" * 88}]) == estimate_input(prompt) + 25


def test_an_attachment_is_not_counted_by_the_length_of_its_base64() -> None:
    picture = {"type": "image", "source": {"type": "base64", "data": "A" * 1_000_000}}
    paper = {"type": "file", "base64": "A" * 1_000_000, "mime_type": "application/pdf"}
    inside = ToolMessage([{"type": "tool_result", "content": [picture]}], tool_call_id="1")
    for message in (HumanMessage([picture]), HumanMessage([paper]), inside):
        assert estimate_input([message]) == 1_503


@pytest.mark.parametrize(
    ("chunk", "length"),
    [
        (AIMessageChunk(content="text is counted elsewhere"), 0),
        (AIMessageChunk(content=[{"type": "thinking", "thinking": "12345", "signature": "g" * 99}]), 5),
        (AIMessageChunk(content=[{"type": "reasoning", "reasoning": "12345"}]), 5),
        (AIMessageChunk(content=[{"type": "reasoning", "summary": [{"type": "summary_text", "text": "12345"}]}]), 5),
        (AIMessageChunk(content=[{"type": "reasoning_content", "reasoning_content": {"text": "12345"}}]), 5),
        (AIMessageChunk(content="", additional_kwargs={"reasoning_content": "12345"}), 5),
        (AIMessageChunk(content="", tool_call_chunks=[{"name": "n", "args": '{"a":', "id": "1", "index": 0}]), 5),
        (AIMessageChunk(content="", tool_call_chunks=[{"name": "n", "args": None, "id": "1", "index": 0}]), 0),
    ],
)
def test_thinking_and_tool_arguments_count_as_output(chunk: AIMessageChunk, length: int) -> None:
    assert silent_chars(chunk) == length


def test_a_whole_answer_is_counted_in_all_its_parts() -> None:
    call: Any = {"name": "fell", "args": {"a": 1}, "id": "1"}
    blocks: Any = [{"type": "thinking", "thinking": "12345"}, {"type": "text", "text": "123"}]
    assert answer_chars(AIMessage(blocks, tool_calls=[call])) == 5 + 3 + len('{"a": 1}')
