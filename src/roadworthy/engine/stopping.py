"""Stopping a run that does not execute here: note the request, and end it at once when it only waits.

Used by ``engine/worker.py`` and ``engine/acceptor.py``.
"""

from roadworthy.domain.run import CancelReason, Run, RunError, RunResult, RunStatus
from roadworthy.engine.execution import Surroundings
from roadworthy.engine.reaper import earlier_result


async def end_waiting(run: Run, around: Surroundings) -> Run | None:
    """End a run that waits for a slot: cancelled if somebody asked for it, else timed out. What earlier attempts did
    and cost is part of its result. None when it does not wait any more.

    Raises:
        StorageUnavailable: the database does not answer.
    """
    earlier = run.attempt > 0
    if run.cancel_requested is not None:
        status = RunStatus.CANCELLED
        error = RunError(
            code=run.cancel_requested.value,
            message=f"the run was cancelled before it {'went on' if earlier else 'started'}",
        )
    else:
        status = RunStatus.TIMEOUT
        error = RunError(code="timeout", message="the run's time was up before a slot was free")
    result = RunResult(error=error)
    if earlier:
        result = await earlier_result(run, error, around, crashed=run.losses > 0)
    ended = await around.queue.end_pending(run, status, result)
    if ended is not None:
        around.log.ended(ended)
        around.telemetry.run_finished(ended)
    return ended


async def request_stop(run: Run, reason: CancelReason, around: Surroundings) -> tuple[Run, bool]:
    """Note that a run should stop. The row as it is then, and whether it has been ended by this.

    Raises:
        NotFound: the run was erased meanwhile.
        StorageUnavailable: the database does not answer.
    """
    run = await around.queue.request_cancel(run, reason)
    if run.status is not RunStatus.PENDING:
        return run, False
    ended = await end_waiting(run, around)
    if ended is not None:
        return ended, True
    # Somebody else was faster, and the row says what they did.
    return await around.queue.request_cancel(run, reason), False
