"""Request body → JSON value → wire model, strictly.

A dependency rather than FastAPI's own body parameter, because FastAPI reads the body before it asks who is calling.
A route therefore asks for its ``Caller`` before its body. ``http/openapi.py`` documents the body that a route reads
this way. Called by the routes of every dialect.
"""

import asyncio
import json
import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Generic, TypeVar

import orjson
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from roadworthy.domain.errors import MalformedBody, UnsupportedMediaType
from roadworthy.domain.json import JsonValue
from roadworthy.http.auth import require_authenticated
from roadworthy.http.deps import HttpLimits, web_of

MAX_DEPTH = 64
_INTEGERS = range(-(2**63), 2**64)  # what every JSON encoder and checkpoint format on the way can hold
_MAX_INT_DIGITS = 20
_LONG_NUMBER = re.compile(rb"[0-9]{19}")
_PARSE_IN_THREAD = 64_000  # bytes from which parsing would hold up other requests
_JSON_TYPE = re.compile(r"application/(?:[\w.+-]+\+)?json\s*(?:;.*)?", re.IGNORECASE)

Model = TypeVar("Model", bound=BaseModel)


class JsonBody(Generic[Model]):
    """Dependency that reads a body into ``model``. ``optional``: no body at all counts as ``{}``.

    The model is validated with this server's HttpLimits as its context.

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
        limits = web_of(request).limits
        declared = request.headers.get("content-type")
        if declared is None and self.optional:
            if await _whole_body(request):
                raise UnsupportedMediaType("The content type must be application/json.")
            return self._validated({}, limits)
        if declared is None or not _JSON_TYPE.fullmatch(declared.strip()):
            raise UnsupportedMediaType("The content type must be application/json.")
        body = await _whole_body(request)
        if not body and self.optional:
            return self._validated({}, limits)
        return self._validated(await _parse_beside(body), limits)

    def _validated(self, value: JsonValue, limits: HttpLimits) -> Model:
        if not isinstance(value, dict):
            error = {"type": "object", "loc": ("body",), "msg": "The body must be a JSON object."}
            raise RequestValidationError([error])
        try:
            return self.model.model_validate(value, context=limits)
        except ValidationError as exc:
            found = exc.errors(include_url=False, include_input=False, include_context=False)
            raise RequestValidationError([{**error, "loc": ("body", *error["loc"])} for error in found]) from None


def parse_json(body: bytes) -> JsonValue:
    """Parse a body that may hold anything.

    Raises:
        MalformedBody: it is not UTF-8 or not JSON; a number is not finite or beyond 64 bits; a text holds NUL or half
            of a surrogate pair; it is nested deeper than 64 levels.
    """
    try:
        value: JsonValue = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise MalformedBody(f"The body is not valid JSON: {exc.msg} at character {exc.pos}.") from None
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH:
        _check_depth(value)
    if b"\\u0000" in body:
        _check_texts(value)
    if _LONG_NUMBER.search(body):
        _check_integers(body)
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


def _check_depth(value: JsonValue) -> None:
    level: list[JsonValue] = [value]
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in _children(node) if isinstance(child, dict | list)]
        if not level:
            return
    raise MalformedBody(f"The body is nested deeper than {MAX_DEPTH} levels.")


def _check_texts(value: JsonValue) -> None:
    left: list[JsonValue] = [value]
    while left:
        node = left.pop()
        if isinstance(node, str) and "\0" in node:
            raise MalformedBody("The body holds a text with a NUL character.")
        if isinstance(node, dict):
            left.extend(node)
        left.extend(_children(node))


def _check_integers(body: bytes) -> None:
    """The parser makes floats of integers that it cannot hold; who sent an integer shall not get another back."""
    json.loads(body, parse_int=_integer)


def _integer(text: str) -> int:
    if len(text) > _MAX_INT_DIGITS or int(text) not in _INTEGERS:
        raise MalformedBody("The body holds an integer beyond 64 bits.")
    return int(text)


def _children(node: JsonValue) -> Iterable[JsonValue]:
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list) else ()
