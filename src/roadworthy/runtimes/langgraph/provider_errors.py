"""What a failed model call says about its provider, read by shape: every client brings its own exception classes.

The error's body counts before its HTTP status: an overload reported inside a stream arrives with status 200. Used by
``failures`` to name a run's end, and by ``metering`` to tell a refused call, which costs nothing, from a broken one.
"""

from collections.abc import Mapping
from json import JSONDecodeError

from langchain_core.exceptions import (
    ContextOverflowError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelError,
    ModelInvalidRequestError,
    ModelNotFoundError,
    ModelPermissionDeniedError,
    ModelRateLimitError,
    ModelTimeoutError,
)

from roadworthy.domain.errors import AgentError, AgentFailed, ProviderUnavailable

_FIRST_CLIENT_ERROR = 400
_FIRST_SERVER_ERROR = 500
_SDKS = frozenset({"anthropic", "openai", "google", "ollama", "langchain_anthropic", "langchain_openai"})
_BROKEN_CONNECTION = frozenset(
    {"APIConnectionError", "ClientConnectionError", "ClientPayloadError", "NetworkError", "TransportError"}
)
# Of the HTTP clients below the SDKs, which raise their own error from one of these.
_NEVER_CONNECTED = frozenset({"ConnectError", "ConnectTimeout", "ClientConnectorError", "ConnectionTimeoutError"})

_REFUSED_KEY = ProviderUnavailable, "the model provider refused the key"
_NOT_PERMITTED = ProviderUnavailable, "the model provider does not permit this with the key"
_UNKNOWN_MODEL = ProviderUnavailable, "the model provider does not know the model"
_NO_MONEY = ProviderUnavailable, "the account at the model provider has no credit left"
_OVERLOADED = ProviderUnavailable, "the model provider is overloaded"
_RATE = ProviderUnavailable, "the model provider limits the rate of requests"
_FAILED = ProviderUnavailable, "the model provider failed"
_SLOW = ProviderUnavailable, "the model provider did not answer in time"
_BROKEN = ProviderUnavailable, "the connection to the model provider broke"
_REJECTED = AgentFailed, "the model provider rejected the request as invalid"
_TOO_LONG = AgentFailed, "the conversation is too long for the model"

_TROUBLE = (_OVERLOADED, _FAILED, _SLOW, _BROKEN)

_Verdict = tuple[type[AgentError], str]

# https://platform.claude.com/docs/en/api/errors, and the types and codes of OpenAI-compatible servers.
_BY_TYPE: Mapping[str, _Verdict] = {
    "overloaded_error": _OVERLOADED,
    "rate_limit_error": _RATE,
    "rate_limit_exceeded": _RATE,
    "api_error": _FAILED,
    "server_error": _FAILED,
    "timeout_error": _SLOW,
    "authentication_error": _REFUSED_KEY,
    "invalid_api_key": _REFUSED_KEY,
    "permission_error": _NOT_PERMITTED,
    "billing_error": _NO_MONEY,
    "insufficient_quota": _NO_MONEY,
    "not_found_error": _UNKNOWN_MODEL,
    "model_not_found": _UNKNOWN_MODEL,
    "context_length_exceeded": _TOO_LONG,
    "invalid_request_error": _REJECTED,
    "request_too_large": _TOO_LONG,
}
_BY_STATUS: Mapping[int, _Verdict] = {
    401: _REFUSED_KEY,
    402: _NO_MONEY,
    403: _NOT_PERMITTED,
    404: _UNKNOWN_MODEL,
    408: _SLOW,
    413: _TOO_LONG,
    429: _RATE,
    529: _OVERLOADED,
}
_BY_KIND: Mapping[type[ModelError], _Verdict] = {
    ContextOverflowError: _TOO_LONG,
    ModelAuthenticationError: _REFUSED_KEY,
    ModelPermissionDeniedError: _NOT_PERMITTED,
    ModelNotFoundError: _UNKNOWN_MODEL,
    ModelRateLimitError: _RATE,
    ModelConnectionError: _BROKEN,
    ModelTimeoutError: _SLOW,
    ModelInvalidRequestError: _REJECTED,
}


def provider_error(error: BaseException) -> AgentError | None:
    """Name the failure of a model call; None when its kind says nothing about the provider."""
    verdict = _by_body(error) or _by_kind(error) or _by_status(error) or _by_connection(error)
    return None if verdict is None else verdict[0](verdict[1])


def is_providers_trouble(error: BaseException) -> bool:
    """Whether the failure of a model call says that its provider is overloaded, broken or out of reach: the next call,
    whoever makes it, would probably fail as well.
    """
    return (_by_body(error) or _by_kind(error) or _by_status(error) or _by_connection(error)) in _TROUBLE


def comes_from_sdk(error: BaseException) -> bool:
    """Whether a known provider's own client raised the error, wherever it was called."""
    return any(kind.__module__.split(".", 1)[0] in _SDKS for kind in type(error).__mro__)


def was_refused(error: BaseException) -> bool:
    """Whether the provider refused the call before it began to answer, or never got it, so that nothing is billed."""
    status: object = getattr(error, "status_code", None)
    return (isinstance(status, int) and status >= _FIRST_CLIENT_ERROR) or _never_connected(error)


def _by_body(error: BaseException) -> _Verdict | None:
    body: object = getattr(error, "body", None)
    if not isinstance(body, Mapping):
        return None
    inner: object = body.get("error", body)
    if not isinstance(inner, Mapping):
        return None
    # The code is the finer word where a server sends both.
    for key in ("code", "type"):
        said: object = inner.get(key)
        if isinstance(said, str) and said in _BY_TYPE:
            return _BY_TYPE[said]
    return None


def _by_kind(error: BaseException) -> _Verdict | None:
    return next((verdict for kind, verdict in _BY_KIND.items() if isinstance(error, kind)), None)


def _by_status(error: BaseException) -> _Verdict | None:
    status: object = getattr(error, "status_code", None)
    if not isinstance(status, int):
        return None
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    return _REJECTED if _FIRST_CLIENT_ERROR <= status < _FIRST_SERVER_ERROR else _FAILED


def _never_connected(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if _NEVER_CONNECTED & {kind.__name__ for kind in type(cause).__mro__}:
            return True
        cause = cause.__cause__
    return False


def _by_connection(error: BaseException) -> _Verdict | None:
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, TimeoutError) or names & {"APITimeoutError", "TimeoutException"}:
        return _SLOW
    # A body that is not JSON is a proxy's error page or a torn stream.
    if names & _BROKEN_CONNECTION or isinstance(error, ConnectionError | JSONDecodeError):
        return _BROKEN
    return None
