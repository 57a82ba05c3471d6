"""Any value becomes bounded JSON that UTF-8 can carry."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage
from pydantic import BaseModel, SecretStr, field_serializer

from roadworthy.runtimes.langgraph.jsonable import MAX_DEPTH, clean_text, to_json


@dataclass
class Point:
    x: int
    inner: object = None


class Card(BaseModel):
    title: str
    secret: SecretStr = SecretStr("hidden")


class Stubborn(BaseModel):
    n: int = 1

    @field_serializer("n")
    def _refuse(self, _: int) -> int:
        raise ValueError("no")


class Pair(NamedTuple):
    a: int
    b: str


class Mood(Enum):
    GOOD = "good"


class Level(IntEnum):
    HIGH = 3


class Name(StrEnum):
    ANN = "ann"


class Vast(IntEnum):
    HIGH = 10**5_000


class Odd(Enum):
    LIST = [10**5_000]  # noqa: RUF012 -- the member's value


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("the password is 1234")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (3, 3),
        (float("nan"), None),
        (float("inf"), None),
        ("text", "text"),
        ((1, 2), [1, 2]),
        ({1}, [1]),
        (Pair(1, "b"), [1, "b"]),
        ({1: "a", None: "b"}, {"1": "a", "None": "b"}),
        ({("a", 1): 2}, {"('a', 1)": 2}),
        (Point(1, Point(2)), {"x": 1, "inner": {"x": 2, "inner": None}}),
        (Card(title="t"), {"title": "t", "secret": "<SecretStr>"}),
        (Stubborn(), "<Stubborn>"),
        ([Mood.GOOD, Level.HIGH, Name.ANN], ["good", 3, "ann"]),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"),
        (Decimal("1.50"), "1.50"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (PurePosixPath("/a"), "/a"),
        (b"abc", "<3 bytes>"),
        (Hostile(), "<Hostile>"),
        ({Hostile(): 1}, {"<Hostile>": 1}),
        (Hostile, "<type>"),
        (ValueError("secret"), "<ValueError>"),
        ([2**64 - 1, -(2**63)], [2**64 - 1, -(2**63)]),
        ([2**64, -(2**63) - 1], ["18446744073709551616", "-9223372036854775809"]),
        ([10**5_000, Vast.HIGH], ["<integer of 16610 bits>"] * 2),
        ({10**5_000: 1}, {"<integer of 16610 bits>": 1}),
        ({Vast.HIGH: 1, Odd.LIST: 2}, {"<integer of 16610 bits>": 1, "<list>": 2}),
        ({(10**5_000, "a"): 1}, {"(<integer of 16610 bits>, 'a')": 1}),
        ({(Hostile(), (1, 2), Mood.GOOD): 1}, {"(<Hostile>, <tuple>, good)": 1}),
    ],
)
def test_values_become_json(value: object, expected: object) -> None:
    assert to_json(value) == expected


def test_messages_become_objects() -> None:
    said = to_json(AIMessage("hi", id="m", tool_calls=[{"name": "t", "args": {"a": 1}, "id": "c"}]))
    assert isinstance(said, Mapping)
    assert (said["type"], said["content"], said["id"]) == ("ai", "hi", "m")


def test_lone_surrogates_are_replaced() -> None:
    assert clean_text("a\udc80ü") == "a?ü"
    json.dumps(to_json({"\ud800": "\udfff"}), ensure_ascii=False).encode()


def test_depth_size_and_length_are_bounded() -> None:
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    assert len(json.dumps(to_json(deep))) < 4 * MAX_DEPTH
    loop: list[Any] = []
    loop.append(loop)
    assert len(json.dumps(to_json(loop))) < 4 * MAX_DEPTH
    assert len(json.dumps(to_json(["x" * 1000] * 1000, max_chars=5000))) < 60_000
    wide = to_json(list(range(300_000)))
    assert isinstance(wide, list)
    assert len(wide) <= 200_001


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON)
def test_json_stays_what_it_is(value: Any) -> None:
    assert to_json(value) == value
