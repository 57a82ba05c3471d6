"""Writes model calls to the ledger, without holding up the graph that made them.

``engine/execution.py`` records calls as they end, has every write asked for before the run's end is, and flushes before
it tells anybody of that end, so that a final run's calls are all on record. Prices, reservations and budgets attach
here.
"""

import asyncio
from collections.abc import Sequence

from roadworthy.domain.run import Run
from roadworthy.domain.usage import ModelCall
from roadworthy.ports.store import Ledger


class Meter:
    """One attempt's calls. ``group`` owns the writes."""

    def __init__(self, ledger: Ledger, group: asyncio.TaskGroup, run: Run) -> None:
        self._ledger = ledger
        self._group = group
        self._run = run
        # Recorded and in nobody's hands; a write that failed puts its calls back here.
        self._pending: list[ModelCall] = []
        self._writing: set[asyncio.Task[None]] = set()

    def record(self, call: ModelCall) -> None:
        """Put a call on record soon."""
        self._pending.append(call)
        self.start()

    def start(self) -> None:
        """Begin to write what is pending, without waiting for it, nor for writes that are under way."""
        if self._pending:
            task = self._group.create_task(self._write_soon(self._taken()))
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)

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

    async def _write_soon(self, calls: Sequence[ModelCall]) -> None:
        try:
            await self._write(calls)
        except Exception:  # noqa: BLE001 -- worker loop: the calls are pending again; ``flush`` tries again and reports
            return

    async def _write(self, calls: Sequence[ModelCall]) -> None:
        try:
            await self._ledger.append(self._run, calls)
        except BaseException:
            self._pending[:0] = calls
            raise

    def _taken(self) -> Sequence[ModelCall]:
        calls, self._pending = tuple(self._pending), []
        return calls
