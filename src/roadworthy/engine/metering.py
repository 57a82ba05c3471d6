"""Prices model calls and writes them to the ledger, without holding up the graph that made them.

``engine/execution.py`` records calls as they end, has every write ahead of the run's end, and flushes before it tells
anybody of that end, so that a final run's calls are all on record. What they cost and which budgets they count
towards says ``engine/spending.py``.
"""

import asyncio
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from roadworthy.domain.budget import BudgetBalance
from roadworthy.domain.money import usd
from roadworthy.domain.run import Run
from roadworthy.domain.usage import ModelCall
from roadworthy.engine.spending import AttemptSpending
from roadworthy.ports.ledger import Ledger
from roadworthy.ports.rate_limit import RateCounters
from roadworthy.ports.telemetry import Telemetry


class Meter:
    """One attempt's calls. ``group`` owns the writes; without one, only ``flush`` writes."""

    def __init__(
        self,
        run: Run,
        group: asyncio.TaskGroup | None,
        *,
        spending: AttemptSpending,
        ledger: Ledger,
        rates: RateCounters,
        telemetry: Telemetry,
    ) -> None:
        self._run = run
        self._group = group
        self._spending = spending
        self._ledger = ledger
        self._rates = rates
        self._telemetry = telemetry
        # Recorded and in nobody's hands; a write that failed puts its calls back here.
        self._pending: list[ModelCall] = []
        self._writing: set[asyncio.Task[None]] = set()
        # Writes of which the ledger has not been asked yet; raised when there are none.
        self._preparing = 0
        self._prepared = asyncio.Event()

    def record(self, call: ModelCall) -> ModelCall:
        """Put a call on record soon. Returns it with its cost."""
        priced = self.owe(call)
        self.start()
        return priced

    def owe(self, call: ModelCall) -> ModelCall:
        """Put a call on record with the next ``flush``, when ``group`` is there no more. Returns it with its cost."""
        priced = self._spending.priced(call)
        self._pending.append(priced)
        self._telemetry.model_call(priced)
        return priced

    def start(self) -> None:
        """Begin to write what is pending, without waiting for it, nor for writes that are under way."""
        if self._pending and self._group is not None:
            task = self._group.create_task(self._write_soon(self._taken()))
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)

    async def ahead(self) -> None:
        """Until nothing that the database is asked for from now on can be stored before the calls that are recorded.

        Where it keeps the order the writes need only stand in its line: one commit may carry them with what follows.

        Raises:
            StorageUnavailable: the ledger cannot be written now; call again.
        """
        if not self._ledger.in_order:
            await self.flush()
            return
        self.start()
        await asyncio.sleep(0)
        while self._preparing:
            await self._prepared.wait()

    async def flush(self) -> None:
        """Until every recorded call is on disk.

        Raises:
            StorageUnavailable: the ledger cannot be written now; call again.
        """
        while self._writing or self._pending:
            if self._writing:
                await asyncio.wait(self._writing)
            else:
                await self._write(self._taken())

    async def release(self) -> None:
        """Free what is held for calls that never began. After ``flush``.

        Raises:
            StorageUnavailable: the ledger cannot be written now; call again, or the sweep bills them as lost.
        """
        if self._spending.holding:
            await self._ledger.release(self._run)
            self._spending.released()

    async def _write_soon(self, calls: Sequence[ModelCall]) -> None:
        try:
            await self._write(calls)
        except Exception:  # noqa: BLE001 -- worker loop: the calls are pending again; ``flush`` tries again and reports
            return

    async def _write(self, calls: Sequence[ModelCall]) -> None:
        try:
            with self._preparation():
                charges = await self._spending.charges(calls)
            # Nothing may be waited for between this and the ledger's line. See ``ahead``.
            crossed = await self._ledger.append(self._run, calls, charges)
        except BaseException:  # cancelled too: whatever kept the calls from the ledger, they are still to be written
            self._pending[:0] = calls
            raise
        self._spending.settled(charges)
        for balance in crossed:
            self._warn(balance)
        await self._count_tokens(calls)

    @contextmanager
    def _preparation(self) -> Generator[None]:
        self._preparing += 1
        self._prepared.clear()
        try:
            yield
        finally:
            self._preparing -= 1
            if not self._preparing:
                self._prepared.set()

    async def _count_tokens(self, calls: Sequence[ModelCall]) -> None:
        used = sum(call.tokens.total for call in calls)
        if used:
            for limit in self._spending.token_limits:
                await self._rates.add(limit, used)

    def _warn(self, balance: BudgetBalance) -> None:
        budget, allowed, warns_at = balance.period.budget, balance.allowed_nanos, balance.warns_at_nanos
        self._telemetry.worker_note(
            "budget_soft_limit",
            tenant=budget.tenant,
            budget_id=budget.budget_id,
            scope=budget.scope.value,
            subject=balance.period.subject,
            window=budget.window.value,
            run_id=self._run.run_id,
            spent_usd=usd(balance.spent_nanos),
            warns_at_usd=None if warns_at is None else usd(warns_at),
            allowed_usd=None if allowed is None else usd(allowed),
        )

    def _taken(self) -> Sequence[ModelCall]:
        calls, self._pending = tuple(self._pending), []
        return calls
