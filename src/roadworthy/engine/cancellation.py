"""Requests to stop, as values: one signal per attempt under way, raised at most once.

``engine/worker.py`` raises them, ``engine/execution.py`` waits for them.
"""

import asyncio
from enum import StrEnum

from roadworthy.domain.ids import RunId
from roadworthy.domain.run import CancelReason


class Handover(StrEnum):
    """Why an attempt is left to others rather than ended: given back, or lost already, so that it may write nothing."""

    DRAIN = "drain"
    LOST = "lost"


StopReason = CancelReason | Handover


class StopSignal:
    """Raised from the event loop's thread; the first reason stays, except that a cancel outranks a drain, and that
    nothing outranks a loss.
    """

    def __init__(self) -> None:
        self.reason: StopReason | None = None
        self.raised: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def stop(self, reason: StopReason) -> None:
        """Raise the signal."""
        if reason is Handover.LOST or self.reason in (None, Handover.DRAIN):
            self.reason = reason
        if not self.raised.done():
            self.raised.set_result(None)


class StopSignals:
    """The signals of every attempt under way in this process."""

    def __init__(self) -> None:
        self._signals: dict[RunId, StopSignal] = {}

    def open(self, run_id: RunId) -> StopSignal:
        """The signal of an attempt that starts."""
        signal = self._signals[run_id] = StopSignal()
        return signal

    def close(self, run_id: RunId, signal: StopSignal) -> None:
        """The attempt has ended. The run may be under way again, in its next one."""
        if self._signals.get(run_id) is signal:
            del self._signals[run_id]

    def stop(self, run_id: RunId, reason: StopReason) -> bool:
        """Raise one signal. False when the run is not under way here."""
        signal = self._signals.get(run_id)
        if signal is None:
            return False
        signal.stop(reason)
        return True

    def stop_all(self, reason: StopReason) -> None:
        """Raise every signal."""
        for signal in self._signals.values():
            signal.stop(reason)

    @property
    def run_ids(self) -> frozenset[RunId]:
        """Runs under way."""
        return frozenset(self._signals)
