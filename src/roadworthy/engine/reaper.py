"""Recovery of runs whose worker is gone: end them, quarantine them, or put them back in line.

Called by ``bootstrap`` before the worker starts (on SQLite every running row is an orphan then). ``engine/worker.py``
ends runs that wait for their next attempt with the same ``earlier_result``.
"""

from dataclasses import replace

from roadworthy.domain.run import Run, RunError, RunResult, RunStatus
from roadworthy.engine.execution import Surroundings
from roadworthy.engine.losses import calls_so_far
from roadworthy.engine.metering import Meter
from roadworthy.engine.spending import open_spending
from roadworthy.engine.tally import left_behind

MAX_LOSSES = 3


async def reap_orphans(around: Surroundings) -> int:
    """Deal with every orphan. Returns how many were put back in line.

    A cancel request comes first, then the deadline, then the count of losses without progress.

    Raises:
        StorageUnavailable: the database does not answer.
    """
    revived = 0
    for run in await around.queue.orphans():
        mark = await around.runtime.progress_mark(run)
        losses = run.losses + 1 if run.losses and mark == run.progress_mark else 1
        ending = _ending(run, losses, around)
        if ending is None:
            revived += await around.queue.reap(run, losses=losses, progress_mark=mark) is not None
            continue
        status, error = ending
        result = await earlier_result(run, error, around, crashed=True)
        ended = await around.queue.end_orphan(run, status, result)
        if ended is not None:
            around.log.ended(ended)
            around.telemetry.run_finished(ended)
    return revived


async def earlier_result(run: Run, error: RunError, around: Surroundings, *, crashed: bool) -> RunResult:
    """What a run amounts to that ends without another attempt: what earlier ones did and cost.

    Raises:
        StorageUnavailable: it cannot be read, or what was lost cannot be put on record.
    """
    # There is no next attempt to settle what was lost: all that were made are earlier ones.
    after = replace(run, attempt=run.attempt + 1)
    seen = await around.log.read(run)
    spending = await open_spending(after, around.purse)
    meter = Meter(after, None, spending=spending, ledger=around.ledger, rates=around.rates, telemetry=around.telemetry)
    calls = await calls_so_far(
        after, seen, ledger=around.ledger, runtime=around.runtime, spending=spending, meter=meter
    )
    await meter.flush()
    return left_behind(seen, calls, error, crashed=crashed)


def _ending(run: Run, losses: int, around: Surroundings) -> tuple[RunStatus, RunError] | None:
    if run.cancel_requested is not None:
        return RunStatus.CANCELLED, RunError(code=run.cancel_requested.value, message="the run was cancelled")
    if run.deadline_at <= around.clock.now():
        return RunStatus.TIMEOUT, RunError(code="timeout", message="the run's time was up when the server came back")
    if losses >= MAX_LOSSES:
        message = f"the server died {losses} times while it executed the run, without progress in between"
        return RunStatus.ERROR, RunError(code="poisoned", message=message)
    return None
