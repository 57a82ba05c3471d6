"""Which content blocks a user's message may hold, checked before anything is stored.

A block that every provider refuses would stay in the thread and make each later call of the model fail. Used by
``messages``. The forms are LangChain's standard blocks, and OpenAI's and Anthropic's spelling of the same.
"""

import binascii
from base64 import b64decode
from collections.abc import Callable, Mapping

from roadworthy.domain.errors import InvalidRequest
from roadworthy.domain.json import JsonValue

Block = Mapping[str, JsonValue]


def check_block(block: JsonValue, where: str) -> None:
    """Check one block. ``where`` names it in the error.

    Raises:
        InvalidRequest: it is no object, of an unknown type, or lacks what its type needs.
    """
    if not isinstance(block, Mapping):
        raise InvalidRequest("a content block must be an object", field=where)
    kind = block.get("type")
    check = _CHECKS.get(kind) if isinstance(kind, str) else None
    if check is None:
        known = ", ".join(sorted(_CHECKS))
        raise InvalidRequest(f"a content block's type must be one of: {known}", field=where)
    problem = check(block)
    if problem is not None:
        raise InvalidRequest(problem, field=where)


def _text(block: Block) -> str | None:
    text = block.get("text")
    return None if isinstance(text, str) and text.strip() else "a text block needs a text that is not blank"


def _data(block: Block) -> str | None:
    """Standard data blocks and Anthropic's, which wraps the same in ``source``."""
    source = block.get("source")
    inner: Block = source if isinstance(source, Mapping) else block
    given = [name for name in ("url", "base64", "data", "file_id", "id", "text") if isinstance(inner.get(name), str)]
    if not given:
        return "the block needs its content: a url, base64 with a mime_type, or a file_id"
    if "url" in given:
        return _url(str(inner["url"]))
    encoded = inner.get("base64") if "base64" in given else inner.get("data")
    if isinstance(encoded, str) and inner.get("type") != "text":
        return _base64(encoded)
    return None


def _image_url(block: Block) -> str | None:
    given = block.get("image_url")
    url = given.get("url") if isinstance(given, Mapping) else given
    return _url(url) if isinstance(url, str) else "an image_url block needs its image_url"


def _input_audio(block: Block) -> str | None:
    given = block.get("input_audio")
    data = given.get("data") if isinstance(given, Mapping) else None
    return _base64(data) if isinstance(data, str) else "an input_audio block needs its data"


def _url(url: str) -> str | None:
    if url.startswith("data:"):
        _, found, encoded = url.partition(";base64,")
        return _base64(encoded) if found else "a data: url must be base64"
    return None if url.startswith(("https://", "http://")) else "a url must begin with https://, http:// or data:"


def _base64(encoded: str) -> str | None:
    try:
        b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return "the content is not base64"
    return None if encoded else "the content is empty"


_CHECKS: Mapping[str, Callable[[Block], str | None]] = {
    "text": _text,
    "text-plain": _data,
    "image": _data,
    "image_url": _image_url,
    "audio": _data,
    "input_audio": _input_audio,
    "video": _data,
    "file": _data,
    "document": _data,
}
