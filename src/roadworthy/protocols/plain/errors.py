"""A run's outcome → the status of an invoke, and the problem that carries the run.

Errors that keep a run from being created have their statuses in ``http/problems.py``.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from http import HTTPStatus
from typing import Final

from roadworthy.domain import errors
from roadworthy.domain.review import ToolReview
from roadworthy.domain.run import Run, RunStatus
from roadworthy.http.problems import Problem, retry_after, status_of
from roadworthy.protocols.plain.documents import run_detail_json

_RETRY_AFTER: Final = retry_after(timedelta(seconds=5))
_OF_STATUS: Mapping[RunStatus, int] = {
    RunStatus.SUCCESS: 200,
    RunStatus.INTERRUPTED: 200,
    RunStatus.CANCELLED: status_of(errors.RunCancelled),
    RunStatus.TIMEOUT: status_of(errors.RunTimedOut),
}
_OF_CODE: Mapping[str, int] = {
    kind.code: status_of(kind)
    for kind in (
        errors.BudgetExceeded,
        errors.PriceUnknown,
        errors.ProviderUnavailable,
        errors.CircuitOpen,
        errors.StorageUnavailable,
        errors.StorageFull,
    )
}


def outcome_problem(run: Run, reviews: Sequence[ToolReview] = ()) -> Problem | None:
    """The problem of a run that ended without an answer, None for one that did well or waits for a human.

    ``reviews``: the tool calls that somebody must look at before the run can go on.
    """
    error = run.result.error
    code = run.status.value if error is None else error.code
    status = _OF_STATUS.get(run.status) or _OF_CODE.get(code, status_of(errors.AgentError))
    if status == HTTPStatus.OK:
        return None
    headers = {"Retry-After": _RETRY_AFTER} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
    detail = f"The run ended as {run.status.value}." if error is None else error.message
    return Problem(
        status=status, code=code, detail=detail, headers=headers, more={"run": run_detail_json(run, reviews)}
    )
