"""Exceptions become errors of the domain: the right ones, with safe texts."""

import sqlite3
from json import JSONDecodeError
from typing import Any

import pytest
from langchain_core.exceptions import ContextOverflowError, ModelAuthenticationError
from langgraph.errors import GraphRecursionError

from roadworthy.domain.errors import (
    AgentFailed,
    LeaseLost,
    LimitReached,
    ProviderUnavailable,
    RoadworthyError,
    StorageFull,
    StorageUnavailable,
)
from roadworthy.runtimes.langgraph.failures import classify, storage_errors


class TransportError(Exception):
    """Named like httpx's."""


class APIStatusError(Exception):
    """Shaped like the SDKs'."""

    def __init__(self, status_code: int, body: object = None) -> None:
        super().__init__("secret prompt")
        self.status_code = status_code
        self.body = body


def error_of(kind: str, code: str | None = None) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "code": code, "message": "secret"}}


@pytest.mark.parametrize(
    ("error", "named", "said"),
    [
        (APIStatusError(200, error_of("overloaded_error")), ProviderUnavailable, "overloaded"),
        (APIStatusError(400, error_of("invalid_request_error")), AgentFailed, "rejected"),
        (APIStatusError(400, error_of("invalid_request_error", "context_length_exceeded")), AgentFailed, "too long"),
        (APIStatusError(429, error_of("x", "insufficient_quota")), ProviderUnavailable, "no credit"),
        (APIStatusError(503), ProviderUnavailable, "failed"),
        (APIStatusError(418), AgentFailed, "rejected"),
        (APIStatusError(413), AgentFailed, "too long"),
        (TransportError("secret"), ProviderUnavailable, "broke"),
        (JSONDecodeError("secret", "doc", 0), ProviderUnavailable, "broke"),
        (ConnectionResetError("secret"), ProviderUnavailable, "broke"),
        (TimeoutError("secret"), ProviderUnavailable, "in time"),
        (ContextOverflowError("secret"), AgentFailed, "too long"),
        (ModelAuthenticationError("secret"), ProviderUnavailable, "key"),
        (KeyError("secret"), AgentFailed, "KeyError"),
    ],
)
def test_what_a_model_call_raised_tells_of_its_provider(
    error: Exception, named: type[RoadworthyError], said: str
) -> None:
    found = classify(error, model_errors=[error])
    assert type(found) is named
    assert said in found.message
    assert "secret" not in found.message
    assert found.__cause__ is error


def test_a_wrapped_failure_of_a_model_call_is_still_the_providers() -> None:
    inner = APIStatusError(529)
    outer = RuntimeError("the node gave up")
    outer.__cause__ = inner
    assert isinstance(classify(outer, model_errors=[inner]), ProviderUnavailable)


@pytest.mark.parametrize("error", [TransportError(), ConnectionResetError(), TimeoutError(), APIStatusError(500)])
def test_the_same_from_anything_else_is_the_agents_own_failure(error: Exception) -> None:
    found = classify(error, model_errors=[])
    assert type(found) is AgentFailed
    assert type(error).__name__ in found.message


def test_errors_of_the_domain_stay_what_they_are() -> None:
    for error in (LeaseLost("x"), StorageUnavailable("x"), ProviderUnavailable("x")):
        assert classify(error, model_errors=[]) is error


def test_the_limit_of_steps_is_a_limit() -> None:
    assert isinstance(classify(GraphRecursionError("x"), model_errors=[]), LimitReached)


def test_sqlite_is_named_locked_or_full() -> None:
    with pytest.raises(StorageUnavailable) as locked, storage_errors():
        raise sqlite3.OperationalError("database is locked")
    assert not isinstance(locked.value, StorageFull)
    with pytest.raises(StorageFull), storage_errors():
        raise sqlite3.OperationalError("database or disk is full")
