"""Time as the core sees it: injected, so that tests own it."""

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """Wall clock for facts, monotonic clock for durations."""

    def now(self) -> datetime:
        """The present moment, aware, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start, never going back."""
        ...
