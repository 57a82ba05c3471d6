"""The OpenAPI document: what FastAPI cannot see of the way requests are really handled here.

Bodies are read by ``http/bodies.py``, callers are known by ``http/auth.py``, errors are problems, streams are events.
Routes state it with ``problems`` and ``json_request``; ``install`` completes the document once, when it is first asked
for. ``app.py`` calls ``install``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from starlette.routing import compile_path

from roadworthy.domain.budget import BudgetScope, BudgetWindow
from roadworthy.http import rate_headers
from roadworthy.http.auth import ON_BEHALF_OF
from roadworthy.http.middleware import REQUEST_ID
from roadworthy.http.patterns import USER
from roadworthy.http.problems import MEDIA_TYPE

PUBLIC: Final = "health"  # operations with this tag need no key
_COMPONENT = "#/components/schemas/"

_MEANING: Final[Mapping[int, str]] = {
    400: "The body is not the JSON it claims to be.",
    401: "No usable API key.",
    402: "A budget is used up; `budget` says which one. Waiting helps only when it has a `resets_at`.",
    403: "The key may not do this.",
    404: "It does not exist for this caller.",
    408: "The body did not arrive in time.",
    409: "It does not fit the present state.",
    413: "The body is too large.",
    415: "The body's content type is not JSON.",
    422: "A value does not fit; `errors` names the fields.",
    429: "The caller's own limit is reached.",
    500: "The server failed, or the agent did.",
    502: "The model provider failed.",
    503: "The server cannot take it now; `Retry-After` says when to try again.",
    504: "The run's time was over.",
    507: "The server's disk is full.",
}
_ON_ANY_CALL: Final = (401, 403, 413, 422, 500, 503)
_RETRYABLE: Final = frozenset({"429", "503", "507"})

_PROBLEM: Final[dict[str, Any]] = {
    "type": "object",
    "title": "Problem",
    "description": "RFC 9457. `code` is stable and made for programs, `detail` for people.",
    "required": ["type", "title", "status", "detail", "code", "request_id"],
    "properties": {
        "type": {"type": "string", "examples": ["urn:roadworthy:problem:not_found"]},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string"},
        "code": {"type": "string", "pattern": "^[a-z_]+$"},
        "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "message"],
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        },
        "budget": {
            "type": "object",
            "description": "The budget that kept the run from being accepted.",
            "required": ["scope", "window", "limit_usd", "spent_usd", "resets_at"],
            "properties": {
                "scope": {"type": "string", "enum": [scope.value for scope in BudgetScope]},
                "window": {"type": "string", "enum": [window.value for window in BudgetWindow]},
                "limit_usd": {"type": "number", "description": "What may be spent, top-ups included."},
                "spent_usd": {"type": "number"},
                "resets_at": {"type": ["string", "null"], "format": "date-time"},
            },
        },
    },
}
_SECURITY_SCHEMES: Final[dict[str, Any]] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, `rw_live_…`, or a JWT of the identity provider.",
    },
    "api_key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same key, another header."},
}
_HEADERS: Final[dict[str, Any]] = {
    REQUEST_ID: {"description": "Names the request in logs and problems.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "string", "pattern": "^[0-9]+$"}},
    "WWW-Authenticate": {"description": "How to authenticate.", "schema": {"type": "string"}},
    rate_headers.POLICY: {
        "description": "The caller's rate limits, when there are any (IETF draft ratelimit-headers).",
        "schema": {"type": "string", "examples": ['"requests-per-key";q=60;w=60']},
    },
    rate_headers.STATUS: {
        "description": "What is left of them, and in how many seconds something is free again.",
        "schema": {"type": "string", "examples": ['"requests-per-key";r=59;t=60']},
    },
}
_PARAMETERS: Final[dict[str, Any]] = {
    ON_BEHALF_OF: {
        "name": ON_BEHALF_OF,
        "in": "header",
        "description": "The end user for whom a backend's key (scope `runs:on_behalf`) calls.",
        "schema": {"type": "string", "pattern": USER},
    }
}


def problems(*statuses: int, schema: str = "Problem") -> dict[int | str, dict[str, Any]]:
    """FastAPI's ``responses`` for the statuses a route may answer, besides those that any call may get."""
    return {status: _problem(status, schema) for status in sorted({*statuses, *_ON_ANY_CALL})}


def json_request(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """FastAPI's ``openapi_extra`` for a route that reads its body through ``JsonBody``."""
    content = {"application/json": {"schema": {"$ref": _COMPONENT + model.__name__}}}
    return {"requestBody": {"required": required, "content": content}}


def install(app: FastAPI, *, schemas: Callable[[], Mapping[str, Mapping[str, Any]]], auth: bool) -> None:
    """Make ``app.openapi`` return the complete document. ``schemas``: makes the components that routes refer to
    by name.
    """

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title,
                version=app.version,
                summary=app.summary,
                description=app.description,
                license_info=app.license_info,
                tags=app.openapi_tags,
                routes=app.routes,
            )
            app.openapi_schema = _completed(document, schemas(), auth=auth)
        return app.openapi_schema

    app.openapi = openapi


def methods_of(app: FastAPI, path: str) -> Sequence[str]:
    """The methods that ``path`` takes by the document; none when it is not in there."""
    for template, operations in app.openapi()["paths"].items():
        if compile_path(template)[0].match(path):
            return sorted(method.upper() for method in operations)
    return ()


def _completed(document: dict[str, Any], schemas: Mapping[str, Mapping[str, Any]], *, auth: bool) -> dict[str, Any]:
    components = document.setdefault("components", {})
    components["schemas"] = {**components.get("schemas", {}), **deepcopy(dict(schemas)), "Problem": _PROBLEM}
    components["headers"] = _HEADERS
    components["parameters"] = _PARAMETERS
    if auth:
        components["securitySchemes"] = _SECURITY_SCHEMES
    for operation in _operations(document):
        rated = "429" in operation["responses"]
        for status, response in operation["responses"].items():
            response.setdefault("headers", {}).update(_headers_of(status, rated=rated))
        for parameter in operation.setdefault("parameters", []):
            parameter["schema"] = _given(parameter["schema"])
        if PUBLIC not in operation.get("tags", ()):
            operation["parameters"].append({"$ref": f"#/components/parameters/{ON_BEHALF_OF}"})
            if auth:
                operation["security"] = [{"bearer": []}, {"api_key": []}]
    return document


def _operations(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for path in document["paths"].values():
        yield from path.values()


def _given(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a parameter that may be left out. FastAPI says that it may be null, which no header can be."""
    match schema.get("anyOf"):
        case [dict() as only, {"type": "null"}]:
            return {**{key: value for key, value in schema.items() if key not in ("anyOf", "default")}, **only}
        case _:
            return schema


def _headers_of(status: str, *, rated: bool) -> dict[str, Any]:
    """``rated``: of an operation that rate limits apply to."""
    names = [REQUEST_ID]
    if rated and (status.startswith("2") or status == "429"):
        names += [rate_headers.POLICY, rate_headers.STATUS]
    if status in _RETRYABLE:
        names.append("Retry-After")
    if status == "401":
        names.append("WWW-Authenticate")
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _problem(status: int, schema: str) -> dict[str, Any]:
    return {
        "description": _MEANING[status],
        "content": {MEDIA_TYPE: {"schema": {"$ref": _COMPONENT + schema}}},
    }
