"""JSON documents as stored text. Used by ``documents.py`` and ``event_rows.py``."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from datetime import datetime

import orjson

from roadworthy.domain.json import JsonValue


def dumps(value: object) -> str:
    """Compact JSON of a JSON value or of a dataclass made of them, moments in ISO 8601.

    What agents and models produce may hold lone surrogates or integers beyond 64 bits, which the fast encoder refuses;
    such a document is written in plain ASCII by the slow one, and reads back the same (but two surrogates that together
    make up a character read back as that character).
    """
    try:
        return orjson.dumps(value, default=_plain).decode()
    except orjson.JSONEncodeError:
        return json.dumps(value, default=_plain, separators=(",", ":"))


def loads(text: str) -> JsonValue:
    """The document again. Not orjson: that rejects or rounds what the slow encoder wrote."""
    document: JsonValue = json.loads(text)
    return document


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence):
        return list(value)
    raise TypeError(f"not a JSON value: {type(value).__name__}")
