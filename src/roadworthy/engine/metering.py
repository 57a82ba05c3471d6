"""Writes model calls to the ledger, without holding up the graph that made them.

``engine/execution.py`` records calls as they end, has every write asked for before the run's end is, and flushes before
it tells anybody of that end, so that a final run's calls are all on record. Prices, reservations and budgets attach
here.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import Self

from roadworthy.domain.run import Run
from roadworthy.domain.usage import ModelCall
from roadworthy.ports.store import Ledger

# A call that ends a run is stored by the run's own commit, which comes sooner.
_LINGER = timedelta(milliseconds=50)


class Meter:
    """One attempt's calls. ``group`` owns the writes; it must outlive the context, after which only ``flush`` writes.

    ``linger``: how long a call may wait for company before its write begins by itself.
    """

    def __init__(self, ledger: Ledger, group: asyncio.TaskGroup, run: Run, *, linger: timedelta = _LINGER) -> None:
        self._ledger = ledger
        self._group = group
        self._run = run
        # Recorded and in nobody's hands; a write that failed puts its calls back here.
        self._pending: list[ModelCall] = []
        self._writing: set[asyncio.Task[None]] = set()
        self._linger = linger.total_seconds()
        self._due: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unset_timer()

    def record(self, call: ModelCall) -> None:
        """Put a call on record with the next ``start`` or ``flush``, or soon by itself."""
        self._pending.append(call)
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(self._linger, self.start)

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

    def _unset_timer(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _taken(self) -> Sequence[ModelCall]:
        self._unset_timer()
        calls, self._pending = tuple(self._pending), []
        return calls
