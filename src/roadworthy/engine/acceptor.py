"""``ports/dispatch.py`` of a process that executes nothing: stores runs and stop requests, for workers elsewhere.

Above: services, and ``bootstrap`` when the API and the workers are processes apart. Below: the queue, and
``ports/signals.py``, by which a worker hears of them before its next poll.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from roadworthy.domain.errors import Draining
from roadworthy.domain.ids import RunId
from roadworthy.domain.load import Load
from roadworthy.domain.principal import Owner
from roadworthy.domain.rate_limit import AppliedLimit
from roadworthy.domain.run import CancelReason, Run, RunStatus
from roadworthy.engine.execution import Surroundings
from roadworthy.engine.stopping import request_stop
from roadworthy.ports.queue import Accepted, IdempotencyRecord
from roadworthy.ports.signals import Wakeups


class Acceptor:
    """``queue_size``: how many runs of all may wait."""

    def __init__(self, around: Surroundings, *, queue_size: int, wakeups: Wakeups | None = None) -> None:
        self._around = around
        self._queue_size = queue_size
        self._wakeups = wakeups
        self._draining = False

    @property
    def draining(self) -> bool:
        """See the port."""
        return self._draining

    def provider_trouble(self) -> str | None:
        """See the port. No model is called here."""
        return None

    def load(self) -> Load:
        """See the port. What waits is counted by who executes it."""
        return Load(slots=0, held=0, stuck=0, waiting=0)

    def stuck(self) -> bool:
        """See the port."""
        return False

    @asynccontextmanager
    async def under_way(self) -> AsyncGenerator[None]:
        """As ``Worker.under_way``; there is nothing to be done beside the requests."""
        yield

    async def submit(
        self, run: Run, *, idempotency: IdempotencyRecord | None, at_once: Sequence[AppliedLimit] = ()
    ) -> Accepted:
        """See the port. A caller who leaves meanwhile leaves a stored run, or none: either is whole."""
        if self._draining:
            raise Draining("the server is shutting down; send the request again")
        accepted = await self._around.queue.accept(
            run, claim_for=None, max_pending=self._queue_size, idempotency=idempotency, at_once=at_once
        )
        if not accepted.replayed:
            self._say_work()
        if accepted.superseded is not None:
            self._say_cancel(accepted.superseded)
        return accepted

    async def find_replay(self, owner: Owner, record: IdempotencyRecord) -> Run | None:
        """See the port."""
        return await self._around.queue.find_replay(owner, record)

    async def stop(self, run: Run, reason: CancelReason) -> Run:
        """See the port."""
        run, ended = await request_stop(run, reason, self._around)
        if ended:
            # The next run of its thread may start.
            self._say_work()
        elif run.status is RunStatus.RUNNING:
            self._say_cancel(run.run_id)
        return run

    async def drain(self) -> None:
        """Accept nothing more; whoever follows a run is handed over to another process."""
        self._draining = True
        self._around.log.hand_over()

    def _say_work(self) -> None:
        if self._wakeups is not None:
            self._wakeups.work()

    def _say_cancel(self, run_id: RunId) -> None:
        if self._wakeups is not None:
            self._wakeups.cancel(run_id)
