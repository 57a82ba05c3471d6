"""Request body → JSON value → wire model, strictly.

A dependency rather than FastAPI's own body parameter, because FastAPI reads the body before it asks who is calling.
A route therefore asks for its ``Caller`` before its body. ``http/openapi.py`` documents the body that a route reads
this way. Called by the routes of every dialect.
"""

import asyncio
import json
import math
import re
from http import HTTPStatus
from typing import Generic, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from roadworthy.domain.errors import MalformedBody, UnsupportedMediaType
from roadworthy.domain.json import JsonValue
from roadworthy.http.auth import require_authenticated
from roadworthy.http.deps import web_of

MAX_DEPTH = 64
INT_RANGE = range(-(2**63), 2**64)  # what every JSON encoder and checkpoint format on the way can hold
_MAX_INT_DIGITS = 20
_PARSE_IN_THREAD = 64_000  # bytes from which parsing would hold up other requests
_JSON_TYPE = re.compile(r"application/(?:[\w.+-]+\+)?json\s*(?:;.*)?", re.IGNORECASE)
# A lone surrogate or a NUL can only come from an escape: decoding refuses the first, the JSON grammar the second.
_ESCAPES = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")

_TEXTS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BESIDE_BRACKETS = re.compile(r"[^\[\]{}]+")

Model = TypeVar("Model", bound=BaseModel)


class JsonBody(Generic[Model]):
    """Dependency that reads a body into ``model``. ``optional``: no body at all counts as ``{}``.

    Raises (when a request comes):
        UnsupportedMediaType: the content type is not JSON.
        MalformedBody: the body is not JSON, or of a kind that no honest client sends.
        BodyTooLarge: by ``http/request_body.py``, while the body is read.
        HTTPException: 408, the body did not arrive in time.
        RequestValidationError: it does not fit the model.
    """

    def __init__(self, model: type[Model], *, optional: bool = False) -> None:
        self.model = model
        self.optional = optional

    async def __call__(self, request: Request) -> Model:
        """Read, parse and validate."""
        require_authenticated(request)
        declared = request.headers.get("content-type")
        if declared is None and self.optional:
            if await _whole_body(request):
                raise UnsupportedMediaType("The content type must be application/json.")
            return self._validated({})
        if declared is None or not _JSON_TYPE.fullmatch(declared.strip()):
            raise UnsupportedMediaType("The content type must be application/json.")
        body = await _whole_body(request)
        if not body and self.optional:
            return self._validated({})
        return self._validated(await _parse_beside(body))

    def _validated(self, value: JsonValue) -> Model:
        try:
            return self.model.model_validate(value)
        except ValidationError as exc:
            found = exc.errors(include_url=False, include_input=False, include_context=False)
            raise RequestValidationError([{**error, "loc": ("body", *error["loc"])} for error in found]) from None


def parse_json(body: bytes) -> JsonValue:
    """Parse a body that may hold anything.

    Raises:
        MalformedBody: it is not UTF-8 or not JSON; a key comes twice; a number is not finite or beyond 64 bits; a text
            holds NUL or half of a surrogate pair; it is nested deeper than 64 levels.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedBody("The body is not valid UTF-8.") from None
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _check_depth(text)
    try:
        value: JsonValue = _DECODER.decode(text)
    except json.JSONDecodeError as exc:
        raise MalformedBody(f"The body is not valid JSON: {exc.msg} at character {exc.pos}.") from None
    if _ESCAPES.search(text):
        _check_texts(value)
    return value


async def _whole_body(request: Request) -> bytes:
    try:
        async with asyncio.timeout(web_of(request).limits.body_timeout.total_seconds()):
            return await request.body()
    except TimeoutError:
        raise HTTPException(HTTPStatus.REQUEST_TIMEOUT) from None


async def _parse_beside(body: bytes) -> JsonValue:
    if len(body) < _PARSE_IN_THREAD:
        return parse_json(body)
    return await asyncio.to_thread(parse_json, body)


def _object(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise MalformedBody("The body holds an object with the same key twice.")
    return result


def _integer(text: str) -> int:
    if len(text) > _MAX_INT_DIGITS or int(text) not in INT_RANGE:
        raise MalformedBody("The body holds an integer beyond 64 bits.")
    return int(text)


def _real(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise MalformedBody("The body holds a number that is too large.")
    return value


def _constant(text: str) -> float:
    raise MalformedBody(f"The body is not valid JSON: {text} is no number.")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_real, parse_constant=_constant, strict=True
)


def _check_depth(text: str) -> None:
    """Before the text is parsed, because parsers recurse, and stacks of threads are small on some systems."""
    left = _BESIDE_BRACKETS.sub("", _TEXTS.sub("", text))
    for _ in range(MAX_DEPTH):  # each round takes the innermost level away
        left = left.replace("[]", "\0").replace("{}", "\0").replace("\0", "")
    if len(left) > MAX_DEPTH or left[:1] + left[-1:] in ("[]", "{}"):
        raise MalformedBody(f"The body is nested deeper than {MAX_DEPTH} levels.")


def _check_texts(value: JsonValue) -> None:
    left: list[JsonValue] = [value]
    while left:
        node = left.pop()
        if isinstance(node, str):
            _check_text(node)
        elif isinstance(node, dict):
            left.extend(node)
            left.extend(node.values())
        elif isinstance(node, list):
            left.extend(node)


def _check_text(text: str) -> None:
    if "\0" in text:
        raise MalformedBody("The body holds a text with a NUL character.")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise MalformedBody("The body holds a text with half of a surrogate pair.")
