"""What services tell the engine: here is a run, and please stop that one. Implemented by ``engine/worker.py``."""

from collections.abc import Sequence
from typing import Protocol

from roadworthy.domain.load import Load
from roadworthy.domain.principal import Owner
from roadworthy.domain.rate_limit import AppliedLimit
from roadworthy.domain.run import CancelReason, Run
from roadworthy.ports.queue import Accepted, IdempotencyRecord


class Dispatcher(Protocol):
    """See the module."""

    @property
    def draining(self) -> bool:
        """Whether the process is shutting down: nothing new is accepted."""
        ...

    async def submit(
        self, run: Run, *, idempotency: IdempotencyRecord | None, at_once: Sequence[AppliedLimit] = ()
    ) -> Accepted:
        """Store a new run and see to it that it is executed: at once when a slot is free and nobody waits, else in
        turn. Complete or nothing even when the caller is cancelled meanwhile.

        Raises:
            Draining: nothing is stored.
            QueueFull, RateLimited, ThreadBusy, AgentMismatch, IdempotencyMismatch, StorageUnavailable: as
                ``RunQueue.accept``.
        """
        ...

    async def find_replay(self, owner: Owner, record: IdempotencyRecord) -> Run | None:
        """As ``RunQueue.find_replay``."""
        ...

    async def stop(self, run: Run, reason: CancelReason) -> Run:
        """Ask a run to stop, wherever it is. A pending one has ended on return; a running one ends within a second.

        A final run is returned as it is.
        """
        ...

    def provider_trouble(self) -> str | None:
        """The latest provider failure that no later success has disproved, safe to show; None when all is well."""
        ...

    def load(self) -> Load:
        """How busy this process is."""
        ...

    def stuck(self) -> bool:
        """Whether every slot is held by threads of runs that have already ended."""
        ...
