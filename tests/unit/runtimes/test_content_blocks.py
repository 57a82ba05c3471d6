"""What a user's content blocks may be: a block that no provider takes would spoil its thread for good."""

import pytest

from roadworthy.domain.errors import InvalidRequest
from roadworthy.domain.json import JsonValue
from roadworthy.runtimes.langgraph.content_blocks import check_block

PIXEL = "iVBORw0KGgo="


@pytest.mark.parametrize(
    "block",
    [
        {"type": "text", "text": "hello"},
        {"type": "image", "url": "https://example.com/a.png"},
        {"type": "image", "base64": PIXEL, "mime_type": "image/png"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
        {"type": "image", "source_type": "base64", "data": PIXEL, "mime_type": "image/png"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
        {"type": "image_url", "image_url": "https://example.com/a.png"},
        {"type": "file", "file_id": "file_1"},
        {"type": "file", "base64": PIXEL, "mime_type": "application/pdf"},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "plain words"}},
        {"type": "input_audio", "input_audio": {"data": PIXEL, "format": "wav"}},
    ],
)
def test_standard_blocks_pass(block: JsonValue) -> None:
    check_block(block, "message[0]")


@pytest.mark.parametrize(
    ("block", "why"),
    [
        ("text", "object"),
        ({}, "type"),
        ({"type": 1}, "type"),
        ({"type": "foo"}, "type"),
        ({"type": "tool_result", "tool_use_id": "x", "content": "y"}, "type"),
        ({"type": "tool_use", "id": "x", "name": "y", "input": {}}, "type"),
        ({"type": "text"}, "text"),
        ({"type": "text", "text": " "}, "blank"),
        ({"type": "image"}, "content"),
        ({"type": "image", "url": "file:///etc/passwd"}, "url"),
        ({"type": "image", "base64": "not base64!"}, "base64"),
        ({"type": "image", "base64": ""}, "empty"),
        ({"type": "image_url"}, "image_url"),
        ({"type": "image_url", "image_url": {"url": "data:image/png,raw"}}, "base64"),
        ({"type": "input_audio", "input_audio": {}}, "data"),
    ],
)
def test_what_no_provider_takes_is_refused_with_its_place(block: JsonValue, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why) as refused:
        check_block(block, "message[3]")
    assert refused.value.field == "message[3]"
