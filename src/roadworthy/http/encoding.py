"""Values → JSON bytes, for every body and every event the server sends."""

import json
from collections.abc import Mapping

import orjson


def to_json(value: object) -> bytes:
    """UTF-8 JSON of dicts, lists, scalars and datetimes (as ``…Z``).

    Never fails on what an agent may have produced: text with lone surrogates, integers beyond 64 bits and keys that are
    no text take a slower way that escapes them; what is no JSON at all becomes its ``str()``.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_UTC_Z)
    except TypeError:
        return json.dumps(_with_text_keys(value), default=str, separators=(",", ":")).encode()


def canonical_json(value: object) -> bytes:
    """JSON with sorted keys, so that equal values have equal bytes."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _with_text_keys(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _with_text_keys(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_text_keys(item) for item in value]
    return value
