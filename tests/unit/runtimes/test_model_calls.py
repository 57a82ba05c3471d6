"""A call as it is planned and as it ends: told, estimated, cut short, free."""

from datetime import UTC, datetime
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage

from roadworthy.domain.usage import Tokens
from roadworthy.runtimes.langgraph import anthropic_usage
from roadworthy.runtimes.langgraph.model_calls import OpenCall, open_call, planned_call

RUN_ID = UUID(int=7)
AT = datetime(2026, 11, 1, tzinfo=UTC)
METADATA = {"langgraph_node": "model", "ls_provider": "anthropic", "ls_model_name": "claude-sonnet-5-5"}
PROMPT = [HumanMessage("x" * 400)]
TOOL = {"name": "x" * 88}


def a_call(**params: Any) -> OpenCall:
    return open_call(RUN_ID, PROMPT, (), METADATA, AT, invocation_params=params)


def usage(input_tokens: int, output_tokens: int, **inputs: int) -> Any:
    total = input_tokens + output_tokens
    return {
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "total_tokens": total,
        "input_token_details": inputs,
    }


def test_a_call_that_told_its_usage_is_not_estimated() -> None:
    call = a_call()
    call.take_answer(AIMessage("x", usage_metadata=usage(50, 9, cache_read=20)))
    ended = call.ended("complete", AT)
    assert (ended.tokens, ended.estimated) == (Tokens(input=50, output=9, cache_read=20), False)
    assert (ended.call_id, ended.node, ended.provider) == (str(RUN_ID), "model", "anthropic")


def test_a_call_that_contradicts_itself_is_flagged() -> None:
    call = a_call()
    call.take_answer(AIMessage("x", usage_metadata=usage(50, 9, cache_read=200)))
    ended = call.ended("complete", AT)
    assert (ended.tokens, ended.estimated) == (Tokens(input=250, output=9, cache_read=200), True)


@pytest.mark.parametrize("said", [None, usage(0, 0)])
def test_a_call_that_told_nothing_is_estimated_and_never_free(said: Any) -> None:
    call = a_call(tools=[TOOL])
    call.take_answer(AIMessage("y" * 40, usage_metadata=said))
    ended = call.ended("complete", AT)
    assert (ended.tokens, ended.estimated) == (Tokens(input=100 + 3 + 25, output=10), True)


def test_a_call_cut_short_keeps_the_input_that_its_start_told() -> None:
    call = a_call()
    call.start = Tokens(input=5_000, cache_read=4_000)
    call.chars += 40
    ended = call.ended("cancelled", AT, cut_short=True)
    assert (ended.tokens, ended.estimated) == (Tokens(input=5_000, cache_read=4_000, output=10), True)


@pytest.mark.parametrize(("counted", "output"), [(2, 10), (30, 30)])
def test_a_call_that_failed_is_billed_by_the_larger_of_what_was_told_and_seen(counted: int, output: int) -> None:
    call = a_call()
    call.take_silent(AIMessageChunk(content="", usage_metadata=usage(600, counted)))
    call.chars += 40
    ended = call.ended("failed", AT)
    assert (ended.tokens, ended.estimated) == (Tokens(input=600, output=output), True)


def test_a_call_that_was_refused_is_free() -> None:
    ended = a_call().ended("failed", AT, free=True)
    assert (ended.tokens, ended.estimated) == (Tokens(), False)


@pytest.mark.parametrize(
    ("params", "limit"),
    [
        ({}, None),
        ({"max_tokens": None}, None),
        ({"max_tokens": 0}, None),
        ({"max_tokens": 50}, 50),
        ({"max_completion_tokens": 60}, 60),
        ({"max_output_tokens": 70}, 70),
        ({"max_tokens": 9, "max_completion_tokens": 55}, 55),
    ],
)
def test_a_planned_call_names_its_longest_answer(params: Any, limit: int | None) -> None:
    planned = planned_call(RUN_ID, PROMPT, METADATA, params)
    assert planned.max_output_tokens == limit
    assert (planned.call_id, planned.provider, planned.model) == (str(RUN_ID), "anthropic", "claude-sonnet-5-5")


def test_a_planned_call_has_the_tokens_of_prompt_and_tools() -> None:
    assert planned_call(RUN_ID, PROMPT, METADATA, {}).input_tokens == 103
    assert planned_call(RUN_ID, PROMPT, METADATA, {"tools": [TOOL]}).input_tokens == 128
    assert planned_call(RUN_ID, PROMPT, {"ls_max_tokens": 5}, {"tools": "odd"}).max_output_tokens == 5


def test_a_client_of_another_version_is_left_alone_with_a_word_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    unknown = ModuleType("unknown")
    assert not anthropic_usage.attach(unknown)
    assert not anthropic_usage.attach(unknown)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_client_is_wrapped_once_and_outside_an_attempt_it_adds_nothing() -> None:
    def make_chunk(model: object, event: object) -> tuple[AIMessageChunk, object]:
        return AIMessageChunk(content=""), event

    name = "_make_message_chunk_from_anthropic_event"
    model: Any = type("ChatAnthropic", (), {name: make_chunk})
    client = ModuleType("client")
    vars(client)["ChatAnthropic"] = model
    assert anthropic_usage.attach(client)
    wrapped = vars(model)[name]
    assert wrapped is not make_chunk
    assert anthropic_usage.attach(client)
    assert vars(model)[name] is wrapped
    event: Any = type("Event", (), {"type": "message_start", "message": None})()
    chunk = wrapped(model(), event)[0]
    assert chunk.response_metadata == {}
    assert anthropic_usage.take_start(chunk) is None
