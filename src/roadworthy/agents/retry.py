"""Repeats a model call that failed for a passing reason: the ``assistant``'s middleware around each call.

``summarization`` is as patient with its own calls. ``provider_errors`` judges the failure; tenacity runs the loop.
LangChain's own retry middleware cannot honour ``retry-after`` nor bound the sum of its waits, and a run has a deadline.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from tenacity import AsyncRetrying, RetryCallState, Retrying, retry_if_exception
from tenacity.wait import wait_exponential, wait_random

from roadworthy.agents.provider_errors import is_transient, seconds_to_wait

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how long to try one model call again.

    ``max_wait`` bounds the sum of all waits of one call. A ``retry-after`` that does not fit into what is left of it
    ends the trying at once: the caller is better told than kept waiting.
    """

    max_retries: int = 4
    max_wait: timedelta = timedelta(seconds=30)
    first_wait: timedelta = timedelta(milliseconds=500)


class ProviderRetry(AgentMiddleware[Any, Any, Any]):  # LangChain's own defaults: any state, context and response
    """Calls the model again after overloads, rate limits and broken connections, within a ``RetryPolicy``."""

    def __init__(self, policy: RetryPolicy) -> None:
        super().__init__()
        self._patience = Patience(policy)

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Call the model, again after each transient failure.

        Raises:
            Exception: what the last call raised.
        """
        return self._patience.retrying()(handler, request)

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """Call the model, again after each transient failure.

        Raises:
            Exception: what the last call raised.
        """
        return await self._patience.async_retrying()(handler, request)


class Patience:
    """Makes tenacity's loops for a ``RetryPolicy``. ``given_up`` answers when it ran out; without it the error does."""

    def __init__(self, policy: RetryPolicy, *, given_up: Callable[[RetryCallState], object] | None = None) -> None:
        self._policy = policy
        self._given_up = given_up
        first = policy.first_wait.total_seconds()
        self._backoff = wait_exponential(multiplier=first, max=policy.max_wait.total_seconds()) + wait_random(0, first)

    def retrying(self) -> Retrying:
        """Return a loop for one call."""
        return Retrying(
            retry=retry_if_exception(is_transient),
            wait=self._wait,
            stop=self._stop,
            before_sleep=_report,
            retry_error_callback=self._given_up,
            reraise=True,
        )

    def async_retrying(self) -> AsyncRetrying:
        """Return a loop for one call that is awaited."""
        return AsyncRetrying(
            retry=retry_if_exception(is_transient),
            wait=self._wait,
            stop=self._stop,
            before_sleep=_report,
            retry_error_callback=self._given_up,
            reraise=True,
        )

    def _wait(self, state: RetryCallState) -> float:
        """Wait as long as the provider asks, and never shorter than the backoff."""
        return max(self._backoff(state), seconds_to_wait(failure(state)) or 0.0)

    def _stop(self, state: RetryCallState) -> bool:
        waited = state.idle_for + state.upcoming_sleep
        return state.attempt_number > self._policy.max_retries or waited > self._policy.max_wait.total_seconds()


def failure(state: RetryCallState) -> BaseException:
    """Return what the last call raised."""
    error = state.outcome.exception() if state.outcome else None
    return error or AssertionError("tenacity waits only after a failure")


def _report(state: RetryCallState) -> None:
    # The class only: a provider's message may quote the prompt.
    kind = type(failure(state)).__name__
    _log.warning("model call failed with %s, trying again in %.1f s", kind, state.upcoming_sleep)
