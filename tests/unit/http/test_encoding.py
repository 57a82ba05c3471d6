import json
from datetime import UTC, datetime

from roadworthy.http.encoding import canonical_json, to_json


def test_moments_are_written_in_utc() -> None:
    assert to_json({"at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)}) == b'{"at":"2026-01-02T03:04:05Z"}'


def test_text_with_half_a_surrogate_pair_is_escaped_not_fatal() -> None:
    assert json.loads(to_json({"tool": "a\ud800b"})) == {"tool": "a\ud800b"}


def test_integers_beyond_64_bits_and_foreign_keys_are_written() -> None:
    assert json.loads(to_json({1: 2**70, "at": [{None: (1, 2)}]})) == {"1": 2**70, "at": [{"None": [1, 2]}]}


def test_what_is_no_json_becomes_text() -> None:
    assert json.loads(to_json({"kind": {1}})) == {"kind": "{1}"}


def test_equal_values_have_equal_bytes() -> None:
    assert canonical_json({"a": 1, "b": {"d": 1, "c": 2}}) == canonical_json({"b": {"c": 2, "d": 1}, "a": 1})
