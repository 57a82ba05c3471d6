"""Whether a run may begin: the caller's scope first; rates and budgets attach here. Then the run goes to the engine."""

from roadworthy.domain.principal import Principal, Scope
from roadworthy.domain.run import Run
from roadworthy.ports.dispatch import Dispatcher
from roadworthy.ports.queue import Accepted, IdempotencyRecord


class Admission:
    """Every run of every dialect passes here."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def check(self, principal: Principal) -> None:
        """Refuse early, before the input is looked at.

        Raises:
            PermissionDenied: the key may not start runs.
        """
        principal.require(Scope.RUNS_WRITE)

    async def admit(self, run: Run, *, idempotency: IdempotencyRecord | None) -> Accepted:
        """Hand a run to the engine.

        Raises:
            Draining, QueueFull, RateLimited, ThreadBusy, AgentMismatch, IdempotencyMismatch, StorageUnavailable:
                nothing is stored.
        """
        return await self._dispatcher.submit(run, idempotency=idempotency)
