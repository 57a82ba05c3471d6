"""What a client reads when something is wrong: RFC 9457 ``application/problem+json``.

One table maps the core's errors to HTTP statuses, looked up along the MRO, so that a new error is never without one.
``http/middleware.py`` renders what any route raises; a dialect may add members (the plain API adds ``run``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from http import HTTPStatus
from math import ceil

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from roadworthy.domain import errors
from roadworthy.domain.money import usd
from roadworthy.http.encoding import to_json
from roadworthy.http.patterns import readable
from roadworthy.http.rate_headers import rate_headers

MEDIA_TYPE = "application/problem+json"
MAX_FIELD_ERRORS = 20
_MAX_FIELD_NAME = 200

STATUS: Mapping[type[errors.RoadworthyError], int] = {
    errors.RoadworthyError: 500,
    errors.InvalidRequest: 422,
    errors.MalformedBody: 400,
    errors.BodyTooLarge: 413,
    errors.UnsupportedMediaType: 415,
    errors.Unauthenticated: 401,
    errors.PermissionDenied: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.IdempotencyMismatch: 422,
    errors.LimitExceeded: 429,
    errors.BudgetExceeded: 402,
    errors.QueueFull: 503,
    errors.AgentError: 500,
    errors.RunTimedOut: 504,
    errors.RunCancelled: 409,
    errors.ProviderUnavailable: 502,
    errors.CircuitOpen: 503,
    errors.Unavailable: 503,
    errors.StorageFull: 507,
}

# Errors that a client can do nothing about and whose text was written for operators.
_INTERNAL = (errors.LeaseLost, errors.ConfigError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """``fields``: what is wrong where, as (field, message). ``more``: members that a dialect adds."""

    status: int
    code: str
    detail: str
    fields: Sequence[tuple[str, str]] = ()
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    more: Mapping[str, object] = field(default_factory=dict[str, object])


def status_of(kind: type[errors.RoadworthyError]) -> int:
    """The HTTP status of an error, that of its nearest ancestor in the table."""
    return next(STATUS[base] for base in kind.__mro__ if base in STATUS)


def problem_of(exc: Exception, *, more: Mapping[str, object] | None = None) -> Problem:
    """The problem that tells a client about ``exc``. Texts of unknown exceptions are not shown."""
    match exc:
        case errors.RoadworthyError() if not isinstance(exc, _INTERNAL):
            return _of_ours(exc, more or {})
        case RequestValidationError():
            return _of_validation(exc)
        case HTTPException():
            return _of_http(exc)
        case _:
            return Problem(status=500, code="internal", detail="The server failed to handle the request.")


def problem_response(problem: Problem, request: Request) -> Response:
    """Render a problem, with the request's id in it."""
    body: dict[str, object] = {
        "type": f"urn:roadworthy:problem:{problem.code}",
        "title": problem.code.replace("_", " ").capitalize(),
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        "request_id": request.scope.get("state", {}).get("request_id", ""),
    }
    if problem.fields:
        body["errors"] = [{"field": name, "message": message} for name, message in problem.fields]
    body.update(problem.more)
    return Response(to_json(body), problem.status, headers=problem.headers, media_type=MEDIA_TYPE)


def retry_after(delay: timedelta) -> str:
    """A ``Retry-After`` header: whole seconds, never 0, so that nobody retries at once."""
    return str(max(1, ceil(delay.total_seconds())))


def _of_ours(exc: errors.RoadworthyError, more: Mapping[str, object]) -> Problem:
    headers: dict[str, str] = {}
    fields: Sequence[tuple[str, str]] = ()
    match exc:
        case errors.Unauthenticated():
            headers["WWW-Authenticate"] = "Bearer"
        case errors.LimitExceeded(retry_after=timedelta() as delay) | errors.Unavailable(retry_after=delay):
            headers["Retry-After"] = retry_after(delay)
        case errors.BudgetExceeded(spent=errors.SpentBudget() as spent):
            more = {"budget": _budget(spent), **more}
        case errors.InvalidRequest(field=str() as name):
            fields = [(name, exc.message)]
        case _:
            pass
    if isinstance(exc, errors.RateLimited):
        headers.update(rate_headers(exc.rates))
    return Problem(
        status=status_of(type(exc)), code=exc.code, detail=exc.message, fields=fields, headers=headers, more=more
    )


def _budget(spent: errors.SpentBudget) -> Mapping[str, object]:
    return {
        "scope": spent.scope,
        "window": spent.window,
        "limit_usd": usd(spent.allowed_nanos),
        "spent_usd": usd(spent.spent_nanos),
        "resets_at": spent.resets_at,
    }


def _of_validation(exc: RequestValidationError) -> Problem:
    fields = [
        (_field_name(error["loc"]), readable(str(error["msg"]).removeprefix("Value error, ")))
        for error in exc.errors()[:MAX_FIELD_ERRORS]
    ]
    detail = "; ".join(f"{name}: {message}" if name else message for name, message in fields[:3])
    return Problem(status=422, code=errors.InvalidRequest.code, detail=detail or "invalid request", fields=fields)


def _of_http(exc: HTTPException) -> Problem:
    phrase = HTTPStatus(exc.status_code).phrase
    return Problem(
        status=exc.status_code,
        code=_HTTP_CODES.get(exc.status_code, phrase.lower().replace(" ", "_").replace("-", "_")),
        detail=_HTTP_DETAILS.get(exc.status_code, phrase),
        headers=exc.headers or {},
    )


def _field_name(loc: Sequence[object]) -> str:
    """The path of a field, without the part of the request it is in: ``("body", "context", "a")`` → ``context.a``."""
    return ".".join(str(part) for part in loc[1:])[:_MAX_FIELD_NAME]


_HTTP_CODES = {404: errors.NotFound.code}
_HTTP_DETAILS = {
    404: "There is nothing at this path.",
    405: "The path does not take this method.",
    408: "The body did not arrive in time.",
}
