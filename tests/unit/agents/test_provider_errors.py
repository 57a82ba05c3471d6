"""Failures of a model call are judged by the body first, then by status, then by kind."""

import json
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
from langchain_core.exceptions import ContextOverflowError, ModelConnectionError
from langgraph.errors import GraphBubbleUp

from roadworthy.agents.provider_errors import is_transient, seconds_to_wait
from roadworthy.domain.errors import LimitReached, ProviderUnavailable


@dataclass(frozen=True)
class Response:
    headers: dict[str, str] = field(default_factory=dict[str, str])


class StatusError(Exception):
    """Shaped like the status errors of provider SDKs."""

    def __init__(self, status: int, kind: str | None = None, *, retry_after: str | None = None) -> None:
        super().__init__(f"{status} {kind}")
        self.status_code = status
        self.body: object = {"type": "error", "error": {"type": kind, "message": "…"}} if kind else None
        self.response = Response({"retry-after": retry_after} if retry_after is not None else {})


def _unwrapped(status: int, code: str) -> StatusError:
    error = StatusError(status)
    error.body = {"message": "…", "type": None, "code": code}
    return error


def _caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        StatusError(200, "overloaded_error"),
        StatusError(200, "api_error"),
        StatusError(200),
        StatusError(529, "overloaded_error"),
        StatusError(429, "rate_limit_error"),
        StatusError(400, "overloaded_error"),
        *(StatusError(status) for status in (408, 429, 500, 502, 503, 504, 529)),
        StatusError(503, "some_new_type"),
        _unwrapped(429, "rate_limit_exceeded"),
        ProviderUnavailable("the stream was cut"),
        ModelConnectionError("no route"),
        httpx.RemoteProtocolError("peer closed connection"),
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        ConnectionResetError(),
        TimeoutError(),
        json.JSONDecodeError("Expecting value", "<html>", 0),
    ],
    ids=repr,
)
def test_a_passing_failure_is_worth_another_call(error: Exception) -> None:
    assert is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        *(StatusError(status) for status in (400, 401, 402, 403, 404, 409, 413, 422, 501)),
        StatusError(200, "invalid_request_error"),
        StatusError(500, "authentication_error"),
        _unwrapped(429, "insufficient_quota"),
        ContextOverflowError("prompt is too long"),
        _caused(ModelConnectionError("no"), httpx.UnsupportedProtocol("no scheme")),
        _caused(ModelConnectionError("no"), _caused(httpx.ConnectError("tls"), ssl.SSLCertVerificationError())),
        LimitReached("50 model calls"),
        GraphBubbleUp(),
        _caused(GraphBubbleUp(), ConnectionResetError()),
        ValueError("a bug"),
    ],
    ids=repr,
)
def test_a_lasting_failure_is_not_repeated(error: Exception) -> None:
    assert not is_transient(error)


def test_cancellation_is_never_repeated() -> None:
    assert not is_transient(KeyboardInterrupt())


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("0.5", 0.5), ("-3", 0.0), ("soon", None), ("nan", None), ("inf", None), (None, None)],
)
def test_retry_after_is_read_when_it_is_usable(header: str | None, seconds: float | None) -> None:
    assert seconds_to_wait(StatusError(429, retry_after=header)) == seconds


def test_retry_after_may_be_a_date() -> None:
    past, future = (format_datetime(datetime.now(UTC) + timedelta(hours=h), usegmt=True) for h in (-1, 1))
    assert seconds_to_wait(StatusError(429, retry_after=past)) == 0.0
    waits = seconds_to_wait(StatusError(429, retry_after=future))
    assert waits is not None
    assert 0 < waits <= 3600


def test_an_error_without_a_response_names_no_wait() -> None:
    assert seconds_to_wait(ValueError("x")) is None
