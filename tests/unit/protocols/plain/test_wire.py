from typing import Any

import pytest
from pydantic import ValidationError

from roadworthy.domain.run import MultitaskStrategy
from roadworthy.domain.thread import MAX_CONTENT_BLOCKS
from roadworthy.http.deps import HttpLimits
from roadworthy.protocols.plain.wire import RunBody

TEXT = {"type": "text", "text": "hi"}
IMAGE = {"type": "image", "url": "https://a.example/x.png"}


def body(**fields: Any) -> RunBody:
    return RunBody.model_validate(fields, context=HttpLimits(message_max=10))


@pytest.mark.parametrize("message", ["x", "x" * 10, "ü" * 10, [TEXT], [TEXT, IMAGE], [IMAGE] * MAX_CONTENT_BLOCKS])
def test_text_and_content_blocks_are_messages(message: object) -> None:
    assert body(message=message).message == message


@pytest.mark.parametrize(
    "message",
    [
        "",
        "   \n",
        "x" * 11,
        5,
        True,
        {"text": "hi"},
        [],
        ["hi"],
        [{"text": "hi"}],
        [{"type": 1}],
        [{"type": "text"}],
        [{"type": "text", "text": ""}],
        [{"type": "text", "text": "x" * 6}] * 2,
        [IMAGE] * (MAX_CONTENT_BLOCKS + 1),
    ],
)
def test_any_other_message_is_refused_by_name(message: object) -> None:
    with pytest.raises(ValidationError) as failed:
        body(message=message)
    assert [error["loc"] for error in failed.value.errors()] == [("message",)]


@pytest.mark.parametrize("fields", [{}, {"message": None}, {"message": "x", "input": {}}, {"message": "x", "input": 1}])
def test_exactly_one_of_message_and_input_is_asked_for(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="`message`"):
        body(**fields)


@pytest.mark.parametrize("value", [None, {}, {"a": 1}, [1], "text", 0])
def test_an_input_may_be_any_json_even_null(value: object) -> None:
    assert body(input=value).input == value


def test_null_means_left_out() -> None:
    given = body(message="x", input=None, thread_id=None, agent=None, context=None, metadata=None)
    assert given == body(message="x")


@pytest.mark.parametrize(
    "extra",
    [
        {"thread_id": ""},
        {"thread_id": "a/b"},
        {"thread_id": "x" * 129},
        {"thread_id": "a\n"},
        {"thread_id": 5},
        {"agent": "-x"},
        {"agent": "x" * 65},
        {"context": []},
        {"metadata": "x"},
        {"metadata": {str(n): n for n in range(65)}},
        {"on_disconnect": "stay"},
        {"multitask_strategy": "drop"},
        {"durability": "exit"},
        {"unknown": 1},
    ],
)
def test_every_other_field_is_checked_by_name(extra: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as failed:
        body(message="x", **extra)
    assert failed.value.errors()[0]["loc"][0] == next(iter(extra))


def test_a_busy_thread_queues_unless_told_otherwise() -> None:
    assert body(message="x").multitask_strategy is MultitaskStrategy.ENQUEUE


def test_a_body_is_never_checked_against_limits_of_no_server() -> None:
    with pytest.raises(TypeError, match="limits"):
        RunBody.model_validate({"message": "x"})
