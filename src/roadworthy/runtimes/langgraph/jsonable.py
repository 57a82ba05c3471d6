"""Turns any state of any graph into bounded JSON that can be encoded as UTF-8.

``run`` uses it for outputs, interrupts and tool results, ``messages`` for content blocks. Objects that JSON does not
know are named by their class only: their ``repr`` may hold secrets or raise.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import cast
from uuid import UUID

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

from roadworthy.domain.json import JsonObject, JsonValue

MAX_CHARS = 4_000_000
MAX_NODES = 200_000
MAX_DEPTH = 60
_CUT = "…[cut]"
# What every reader of JSON can be expected to take as a number; others are written as text, if they are not too long.
_MIN_INT, _MAX_INT = -(2**63), 2**64 - 1
_WRITTEN_BITS = 1024
_PLAIN = (datetime, date, time, timedelta, Decimal, UUID, PurePath)


def to_json(value: object, *, max_chars: int = MAX_CHARS) -> JsonValue:
    """The value as JSON: models, dataclasses and messages as objects, sets and tuples as arrays.

    At most ``max_chars`` characters of text and ``MAX_NODES`` values in all; what goes beyond is cut with a marker.
    """
    return _Budget(max_chars).convert(value, 0)


def to_json_object(value: Mapping[str, object]) -> JsonObject:
    """``to_json`` of a mapping, which is an object."""
    converted = to_json(value)
    return converted if isinstance(converted, Mapping) else {}


def clean_text(text: str) -> str:
    """The text without lone surrogates, which UTF-8 cannot carry."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


class _Budget:
    """What may still be written of one value."""

    def __init__(self, max_chars: int) -> None:
        self._chars = max_chars
        self._nodes = MAX_NODES

    def convert(self, value: object, depth: int) -> JsonValue:
        self._nodes -= 1
        while isinstance(value, Enum):
            value = value.value
        if isinstance(value, str):
            return self._text(value)
        if value is None or isinstance(value, int | float):
            return self._number(value)
        if depth >= MAX_DEPTH or self._nodes <= 0:
            return _CUT
        if isinstance(value, Mapping):
            return self._mapping(value.items(), depth)
        if isinstance(value, Sequence | AbstractSet) and not isinstance(value, bytes | bytearray | memoryview):
            return self._items(value, depth)
        return self._object(value, depth)

    def _text(self, text: str) -> str:
        if len(text) > self._chars:
            text = text[: max(0, self._chars)] + _CUT
        self._chars -= len(text)
        return clean_text(text)

    def _number(self, value: float | None) -> JsonValue:
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        if value is None or isinstance(value, bool) or _MIN_INT <= value <= _MAX_INT:
            return value
        return self._text(_integer(value))

    def _items(self, values: Iterable[object], depth: int) -> JsonValue:
        result: list[JsonValue] = []
        for value in values:
            if self._nodes <= 0:
                result.append(_CUT)
                break
            result.append(self.convert(value, depth + 1))
        return result

    def _mapping(self, pairs: Iterable[tuple[object, object]], depth: int) -> JsonValue:
        result: dict[str, JsonValue] = {}
        for key, value in pairs:
            if self._nodes <= 0:
                result[_CUT] = None
                break
            name = key if isinstance(key, str) else _key(key)
            result[self._text(name)] = self.convert(value, depth + 1)
        return result

    def _object(self, value: object, depth: int) -> JsonValue:
        if isinstance(value, _PLAIN):
            return self._text(_scalar(value))
        if isinstance(value, BaseModel):
            return self._model(value, depth)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._mapping(((f.name, getattr(value, f.name, None)) for f in dataclasses.fields(value)), depth)
        if isinstance(value, bytes | bytearray | memoryview):
            return f"<{len(value)} bytes>"
        return f"<{type(value).__name__}>"

    def _model(self, value: BaseModel, depth: int) -> JsonValue:
        try:
            dumped: object = value.model_dump()
        except (PydanticSerializationError, TypeError, ValueError, AttributeError):
            return f"<{type(value).__name__}>"
        return self.convert(dumped, depth + 1)


def _integer(value: int) -> str:
    """``str`` takes long for very many digits, and refuses even more."""
    bits = value.bit_length()
    return str(value) if bits <= _WRITTEN_BITS else f"<integer of {bits} bits>"


def _key(value: object) -> str:
    """What stands for a key that is no text."""
    if isinstance(value, tuple):
        parts = [repr(part) if isinstance(part, str) else _scalar(part) for part in cast("tuple[object, ...]", value)]
        return f"({', '.join(parts)})"
    return _scalar(value)


def _scalar(value: object) -> str:
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value if isinstance(value.value, str) else _scalar(value.value)
    if isinstance(value, int) and not isinstance(value, bool):
        return _integer(value)
    if isinstance(value, _PLAIN) or value is None or isinstance(value, bool | float):
        return str(value)
    return f"<{type(value).__name__}>"
