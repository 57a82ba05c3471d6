"""Recovery of runs whose worker is gone: end them, quarantine them, or put them back in line.

Called by ``bootstrap`` before the worker starts (on SQLite every running row is an orphan then), and from time to time
by every worker that shares its database (``engine/fleet.py``): each movement is a compare-and-set, so two of them never
do it twice. ``engine/stopping.py`` ends runs that wait for their next attempt with the same ``earlier_result``.
"""

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.domain.ids import RunId
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
    return sum([await _recover(run, around) for run in await around.queue.orphans()])


async def keep_reaping(
    around: Surroundings,
    every: timedelta,
    *,
    busy: Callable[[], Collection[RunId]],
    revived: Callable[[], None],
    chance: Callable[[], float],
) -> None:
    """Take over what dead workers have left, until cancelled. ``busy``: runs that this process has not let go of yet,
    which are left to others. ``revived``: told when runs are back in line. ``chance``: so that workers do not do it all
    at the same moment.
    """
    while True:
        await asyncio.sleep(every.total_seconds() * (0.75 + chance() / 2))
        with suppress(StorageUnavailable):  # the next round tries again
            orphans = [run for run in await around.queue.orphans() if run.run_id not in busy()]
            if sum([await _recover_or_tell(run, around) for run in orphans]):
                revived()


async def _recover_or_tell(run: Run, around: Surroundings) -> bool:
    try:
        return await _recover(run, around)
    except StorageUnavailable:
        raise
    except Exception as error:  # noqa: BLE001 -- worker loop: one orphan must not end this worker, and then the next one
        around.telemetry.attempt_failed(run, error)
        return False


async def _recover(run: Run, around: Surroundings) -> bool:
    """Whether it is back in line."""
    mark = await around.runtime.progress_mark(run)
    losses = run.losses + 1 if run.losses and mark == run.progress_mark else 1
    ending = _ending(run, losses, around)
    if ending is None:
        return await around.queue.reap(run, losses=losses, progress_mark=mark) is not None
    status, error = ending
    result = await earlier_result(run, error, around, crashed=True)
    ended = await around.queue.end_orphan(run, status, result)
    if ended is not None:
        around.log.ended(ended)
        around.telemetry.run_finished(ended)
    return False


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
    return left_behind(seen, calls, await around.runtime.finished_tools(run), error, crashed=crashed)


def _ending(run: Run, losses: int, around: Surroundings) -> tuple[RunStatus, RunError] | None:
    if run.cancel_requested is not None:
        return RunStatus.CANCELLED, RunError(code=run.cancel_requested.value, message="the run was cancelled")
    if run.deadline_at <= around.clock.now():
        return RunStatus.TIMEOUT, RunError(
            code="timeout", message="the run's time was up when its worker was found dead"
        )
    if losses >= MAX_LOSSES:
        message = f"the server died {losses} times while it executed the run, without progress in between"
        return RunStatus.ERROR, RunError(code="poisoned", message=message)
    return None
