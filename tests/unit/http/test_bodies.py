import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadworthy.domain.errors import MalformedBody
from roadworthy.http.bodies import MAX_DEPTH, parse_json

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
values = st.recursive(
    scalars | texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=20,
)


@given(values, st.booleans())
def test_whatever_is_honest_json_comes_through_unchanged(value: object, escaped: bool) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=escaped).encode()) == value


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"a":1} x', "not valid JSON"),
        (b"{'a':1}", "not valid JSON"),
        (b'{"a":NaN}', "not valid JSON"),
        (b"[Infinity]", "not valid JSON"),
        (b"[-Infinity]", "not valid JSON"),
        (b"[1e999]", "not valid JSON"),
        (b"[18446744073709551616]", "64 bits"),
        (b"[-9223372036854775809]", "64 bits"),
        (b"[" + b"9" * 100 + b"]", "64 bits"),
        (b"[" + b"9" * 10_000 + b"]", "not valid JSON"),
        (b'"\\u0000"', "NUL"),
        (b'{"\\u0000":1}', "NUL"),
        (b'"a\x00b"', "not valid JSON"),
        (b'{"a":["\\ud800"]}', "not valid JSON"),
        (b'"\\udc00\\ud800"', "not valid JSON"),
        (b'"\xff"', "not valid JSON"),
        (b'"\xed\xa0\x80"', "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        ('{"a":1}'.encode("utf-16"), "not valid JSON"),
        (nested(MAX_DEPTH + 1), "deeper"),
        (nested(100_000), "depth"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "deeper"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_what_no_honest_client_sends_is_refused_with_a_reason(body: bytes, says: str) -> None:
    with pytest.raises(MalformedBody, match=says):
        parse_json(body)


def test_depth_is_allowed_up_to_the_limit_beside_many_shallow_values() -> None:
    body = b"[" + b"[]," * 200 + nested(MAX_DEPTH - 1) + b"]"
    assert isinstance(parse_json(body), list)


def test_a_long_number_inside_of_text_is_text() -> None:
    assert parse_json(b'["' + b"9" * 50 + b'", 18446744073709551615]') == ["9" * 50, 2**64 - 1]


def test_of_a_repeated_key_the_last_value_counts() -> None:
    assert parse_json(b'{"a":1,"a":2}') == {"a": 2}


def test_brackets_inside_of_text_do_not_count() -> None:
    assert parse_json(json.dumps("[" * 1000).encode()) == "[" * 1000


def test_escaped_surrogate_pairs_are_characters() -> None:
    assert parse_json(b'"\\ud83d\\ude00"') == "😀"


def test_the_text_of_a_body_is_not_echoed() -> None:
    with pytest.raises(MalformedBody) as failed:
        parse_json(b'{"secret-word": oops}')
    assert "secret" not in failed.value.message
