"""Names what went wrong, safely: exceptions of agents, providers and databases become errors of the domain.

``run`` asks when a graph raised, ``checkpoints`` and ``store`` when SQLite did. Texts of foreign exceptions are never
shown: they may quote prompts or secrets.
"""

import sqlite3
from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager

from langgraph.errors import GraphRecursionError, NodeTimeoutError

from roadworthy.domain.errors import (
    AgentError,
    AgentFailed,
    LimitReached,
    ProviderUnavailable,
    RoadworthyError,
    StorageFull,
    StorageUnavailable,
)
from roadworthy.runtimes.langgraph.provider_errors import comes_from_sdk, provider_error

_MAX_CAUSES = 8


def classify(error: Exception, *, model_errors: Collection[BaseException]) -> RoadworthyError:
    """The domain's error for whatever a graph raised, with the original as its cause.

    ``model_errors``: what model calls of the run raised, by which a broken connection to a provider can be told from
    one to anything else.
    """
    named = _classify(error, {id(failed) for failed in model_errors})
    if named is not error and named.__cause__ is None:
        named.__cause__ = error
    return named


@contextmanager
def storage_errors() -> Generator[None]:
    """Names what SQLite raises in the block.

    Raises:
        StorageUnavailable: it failed or stays locked; StorageFull when the disk is full.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise storage_error(error) from error


def storage_error(error: sqlite3.Error) -> StorageUnavailable:
    """The domain's error for what SQLite raised, with the original as its cause."""
    code: object = getattr(error, "sqlite_errorcode", None)
    full = code == sqlite3.SQLITE_FULL or "disk is full" in str(error)
    named = StorageFull("the disk is full") if full else StorageUnavailable("the database of checkpoints does not work")
    named.__cause__ = error
    return named


def _classify(error: Exception, model_errors: Collection[int]) -> RoadworthyError:
    if isinstance(error, RoadworthyError):
        return error
    if isinstance(error, GraphRecursionError):
        return LimitReached("the run reached its limit of steps")
    if isinstance(error, NodeTimeoutError):
        return AgentFailed(f"the agent's node {error.node} took too long")
    for cause in _causes(error):
        if isinstance(cause, ProviderUnavailable):
            return cause
        if (failure := _provider_failure(cause, model_errors)) is not None:
            return failure
    return AgentFailed(f"the agent failed with {type(error).__name__}")


def _provider_failure(error: BaseException, model_errors: Collection[int]) -> AgentError | None:
    if id(error) in model_errors or comes_from_sdk(error):
        return provider_error(error)
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
