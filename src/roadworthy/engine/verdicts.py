"""How an attempt ends, as values: what ``engine/execution.py`` finds out before it stores anything."""

from dataclasses import dataclass
from datetime import timedelta

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.domain.run import CancelReason, Run, RunError, RunStatus
from roadworthy.engine.cancellation import Handover, StopReason
from roadworthy.ports.runtime import Completed, Paused

_CANCELLED = {
    CancelReason.REQUESTED: "the run was cancelled",
    CancelReason.DISCONNECTED: "the client left and the run was not asked to continue",
    CancelReason.SUPERSEDED: "a newer message on the thread took this run's place",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How an attempt ends. ``status`` None: it is given back (drain), or was ``lost`` and may write nothing."""

    status: RunStatus | None
    error: RunError | None = None
    outcome: Completed | Paused | None = None
    lost: bool = False


def stopped(reason: StopReason) -> Verdict:
    """The verdict on an attempt that somebody stopped."""
    if isinstance(reason, CancelReason):
        return Verdict(status=RunStatus.CANCELLED, error=RunError(code=reason.value, message=_CANCELLED[reason]))
    return Verdict(status=None, lost=reason is Handover.LOST)


def past_deadline(run: Run) -> Verdict:
    """The verdict on an attempt that took too long."""
    return _timeout(f"the run did not finish within {(run.deadline_at - run.created_at).total_seconds():g} s")


def idle(limit: timedelta) -> Verdict:
    """The verdict on an attempt that has shown no sign of life for so long."""
    return _timeout(f"the run made no progress for {limit.total_seconds():g} s")


def inner_error(error: Exception) -> RunError:
    """What a run's owner is told of a failure around the agent. A task group wraps what was raised inside of it."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if isinstance(error, StorageUnavailable):
        return RunError(code=error.code, message=error.message)
    return RunError(code="internal", message="the server failed to execute the run")


def _timeout(message: str) -> Verdict:
    return Verdict(status=RunStatus.TIMEOUT, error=RunError(code="timeout", message=message))
