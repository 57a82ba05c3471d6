"""Writes model calls to the ledger, in order, without holding up the graph that made them.

``engine/execution.py`` records calls as they end and flushes before the run's end is stored, so that a final run's
calls are all on record. Prices, reservations and budgets attach here.
"""

import asyncio
from contextlib import suppress

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.domain.run import Run
from roadworthy.domain.usage import ModelCall
from roadworthy.ports.store import Ledger


class Meter:
    """One attempt's calls. ``group`` owns the writes; they never overlap."""

    def __init__(self, ledger: Ledger, group: asyncio.TaskGroup, run: Run) -> None:
        self._ledger = ledger
        self._group = group
        self._run = run
        self._pending: list[ModelCall] = []
        self._writing: asyncio.Task[None] | None = None

    def record(self, call: ModelCall) -> None:
        """Put a call on record soon."""
        self._pending.append(call)
        self.start()

    def start(self) -> None:
        """Begin to write what is pending, without waiting for it."""
        if self._pending and (self._writing is None or self._writing.done()):
            self._writing = self._group.create_task(self._write_soon())

    async def flush(self) -> None:
        """Until every recorded call is on disk.

        Raises:
            StorageUnavailable: the ledger cannot be written now; call again.
        """
        while self._pending or (self._writing is not None and not self._writing.done()):
            if self._writing is not None and not self._writing.done():
                await asyncio.wait({self._writing})
                continue
            await self._write()

    async def _write_soon(self) -> None:
        with suppress(StorageUnavailable):  # the calls stay pending; ``flush`` tries again and reports
            await self._write()

    async def _write(self) -> None:
        while self._pending:
            batch = tuple(self._pending)
            await self._ledger.append(self._run, batch)
            del self._pending[: len(batch)]
