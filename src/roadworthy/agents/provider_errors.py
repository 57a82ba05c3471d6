"""Which failures of a model call may be repeated, judged by what the provider said.

The error's body counts before its HTTP status: an overload reported inside a stream arrives as an error with
status 200. Errors are read by shape, not by class, because every provider's client brings its own classes and
HTTP library. ``retry`` asks; nothing here imports a provider.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from json import JSONDecodeError
from math import isfinite

from langchain_core.exceptions import ModelError
from langgraph.errors import GraphBubbleUp

from roadworthy.domain.errors import CircuitOpen, ProviderUnavailable

# https://platform.claude.com/docs/en/api/errors, and the types of OpenAI-compatible servers.
_TRANSIENT_TYPES = frozenset(
    {"overloaded_error", "api_error", "rate_limit_error", "timeout_error", "server_error", "rate_limit_exceeded"}
)
_FINAL_TYPES = frozenset(
    {
        "invalid_request_error",
        "authentication_error",
        "billing_error",
        "permission_error",
        "not_found_error",
        "request_too_large",
        "insufficient_quota",
    }
)
_TRANSIENT_STATUSES = frozenset({408, 429, 500, 502, 503, 504, 529})
_FIRST_ERROR_STATUS = 400

# Class names in httpx, httpx2, httpcore, aiohttp and the SDKs for a connection that failed or broke off.
_BROKEN_CONNECTION = frozenset(
    {"APIConnectionError", "ClientConnectionError", "ClientPayloadError", "NetworkError", "TransportError"}
)
# Wrong configuration that looks like a broken connection: repeating it cannot help.
_HOPELESS = frozenset({"InvalidURL", "LocalProtocolError", "SSLCertVerificationError", "UnsupportedProtocol"})
_MAX_CAUSES = 8


def is_transient(error: BaseException) -> bool:
    """Say whether the same model call may succeed when it is made again.

    False for everything unknown: a bug is not repaired by repeating it, and each repetition may cost money.
    """
    if isinstance(error, GraphBubbleUp) or not isinstance(error, Exception):
        return False
    if isinstance(error, ProviderUnavailable):
        # An open circuit will not close while somebody waits for it: a fallback model is the better answer.
        return not isinstance(error, CircuitOpen)
    said = _error_types(error)
    if said & _FINAL_TYPES:
        return False
    if said & _TRANSIENT_TYPES:
        return True
    return _is_transient_by_kind(error)


def seconds_to_wait(error: BaseException) -> float | None:
    """Return the provider's ``retry-after`` in seconds (a number or an HTTP date), None if it gave no usable one."""
    headers = getattr(getattr(error, "response", None), "headers", None)
    if not isinstance(headers, Mapping):
        return None
    value: object = headers.get("retry-after")
    if not isinstance(value, str):
        return None
    try:
        seconds = float(value)
    except ValueError:
        return _seconds_until(value)
    return max(0.0, seconds) if isfinite(seconds) else None


def _is_transient_by_kind(error: Exception) -> bool:
    status: object = getattr(error, "status_code", None)
    if isinstance(status, int):
        # Below 400 the answer had begun well and broke with an error that nobody can read.
        return status in _TRANSIENT_STATUSES or status < _FIRST_ERROR_STATUS
    names = {kind.__name__ for cause in _causes(error) for kind in type(cause).__mro__}
    if names & _HOPELESS:
        return False
    if isinstance(error, ModelError):
        return error.is_retryable
    # A body that is not JSON is a proxy's error page or a torn stream.
    return bool(names & _BROKEN_CONNECTION) or isinstance(error, (ConnectionError, TimeoutError, JSONDecodeError))


def _error_types(error: Exception) -> frozenset[str]:
    """Return the type and code in the error's body, whose ``error`` object some clients have already unwrapped."""
    body: object = getattr(error, "body", None)
    if not isinstance(body, Mapping):
        return frozenset()
    inner: object = body.get("error", body)
    if not isinstance(inner, Mapping):
        return frozenset()
    return frozenset(value for value in (inner.get("type"), inner.get("code")) if isinstance(value, str))


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__ or cause.__context__


def _seconds_until(http_date: str) -> float | None:
    try:
        moment = parsedate_to_datetime(http_date)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
