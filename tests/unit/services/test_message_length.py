"""How long a message counts for the limit and for the logs."""

import pytest

from roadworthy.domain.json import JsonValue
from roadworthy.services.runs import message_length


@pytest.mark.parametrize(
    ("message", "length"),
    [
        ("", 0),
        ("hello", 5),
        ("\U0001f600", 1),
        ([{"type": "text", "text": "ab"}, {"type": "image", "url": "x"}, {"type": "text", "text": "c"}], 3),
        ([{"type": "text", "text": 7}, "loose", None], 0),
        (None, 0),
        ({"text": "no message"}, 0),
        (12, 0),
    ],
)
def test_only_text_counts(message: JsonValue, length: int) -> None:
    assert message_length(message) == length
