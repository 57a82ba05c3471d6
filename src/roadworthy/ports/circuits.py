"""A circuit breaker for each model provider: what the runtime asks and tells, and what replicas share.

The engine implements ``Circuits`` (``engine/circuits.py``); ``storage`` implements ``CircuitStore`` for a fleet.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Protocol


class Circuits(Protocol):
    """Safe from any thread; nothing here waits."""

    def check(self, provider: str) -> None:
        """Ask before a call is made. Whoever is let through tells how the call ended.

        Raises:
            CircuitOpen: the provider has failed so often lately that it is left alone for a while.
        """
        ...

    def answered(self, provider: str) -> None:
        """A call ended well, or was refused for the caller's own reasons: the provider is there."""
        ...

    def failed(self, provider: str) -> None:
        """A call failed because the provider is overloaded, broken or cannot be reached."""
        ...

    def left(self, provider: str) -> None:
        """A call was given up before anybody knew."""
        ...


class NoCircuits:
    """Circuits that are never open: for who serves no traffic, such as a command of the CLI."""

    def check(self, provider: str) -> None:
        """See ``Circuits``."""

    def answered(self, provider: str) -> None:
        """See ``Circuits``."""

    def failed(self, provider: str) -> None:
        """See ``Circuits``."""

    def left(self, provider: str) -> None:
        """See ``Circuits``."""


class CircuitStore(Protocol):
    """The open circuits of a fleet. Times are told as durations: the clocks of replicas differ."""

    async def opened(self) -> Mapping[str, tuple[timedelta, int]]:
        """Open circuits by provider: for how much longer (zero or less: it may be probed), and how often it has been
        opened in a row.

        Raises:
            StorageUnavailable: they cannot be read now.
        """
        ...

    async def open(self, provider: str, lasts: timedelta, openings: int) -> None:
        """Open a circuit, or keep it open for longer; never for shorter than somebody else has said.

        Raises:
            StorageUnavailable: nothing is stored.
        """
        ...

    async def close(self, provider: str) -> None:
        """Close a circuit. Idempotent.

        Raises:
            StorageUnavailable: nothing is stored.
        """
        ...
