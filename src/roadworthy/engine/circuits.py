"""The circuit breaker: a provider that fails again and again is left alone for a while, and tried again with care.

Above is the runtime, which asks before each model call (``ports/circuits.py``); below, in a fleet, the store through
which replicas learn of each other's. A circuit opens at so many failures in a row, lasts longer each time it opens
again, and closes by itself at the first call that the provider answers: when its time is over, each process lets one
call through and waits for its end; a minute later all of them, and one failure opens it again. A provider without a
name has no circuit.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from threading import Lock

from roadworthy.domain.errors import CircuitOpen, StorageUnavailable
from roadworthy.ports.circuits import CircuitStore
from roadworthy.ports.clock import Clock
from roadworthy.ports.telemetry import Telemetry

SYNC_EVERY = timedelta(seconds=1)
_LONGEST = timedelta(minutes=2)
_DOUBLINGS = 16
# After that, nobody waits for the end of a probe, which may be a long answer, or a call that never came.
_PROBE_LASTS = timedelta(seconds=60)


@dataclass(slots=True)
class _Circuit:
    """``failures`` in a row. ``until``: open as long, None when closed; ``probed_at``: when a call was let through."""

    failures: int = 0
    openings: int = 0
    until: float | None = None
    probed_at: float | None = None


class ProviderCircuits:
    """``ports.circuits.Circuits``. ``failures``: so many in a row open a circuit, 0 for never; ``lasts``: for so long
    the first time, twice as long each time in a row.
    """

    def __init__(
        self,
        clock: Clock,
        telemetry: Telemetry,
        *,
        failures: int,
        lasts: timedelta,
        store: CircuitStore | None = None,
    ) -> None:
        self._clock = clock
        self._telemetry = telemetry
        self._failures = failures
        self._lasts = lasts
        self._store = store
        self._lock = Lock()
        self._circuits: dict[str, _Circuit] = {}
        # What the fleet has to be told: providers whose circuit was opened or closed here.
        self._news: dict[str, None] = {}

    def check(self, provider: str) -> None:
        """See the port."""
        circuit = self._circuits.get(provider)
        until = None if circuit is None else circuit.until
        if circuit is None or until is None:
            return
        with self._lock:
            now = self._clock.monotonic()
            if now >= until and (circuit.probed_at is None or now - until >= _PROBE_LASTS.total_seconds()):
                circuit.probed_at = now
                return
        raise CircuitOpen(
            f"the model provider {provider} keeps failing: it is not called for a while",
            retry_after=timedelta(seconds=max(1.0, until - now)),
        )

    def answered(self, provider: str) -> None:
        """See the port."""
        circuit = self._circuits.get(provider)
        if circuit is None or (not circuit.failures and circuit.until is None):
            return
        with self._lock:
            was_open = circuit.until is not None
            self._circuits[provider] = _Circuit()
            if was_open:
                self._news[provider] = None
        if was_open:
            self._telemetry.worker_note("circuit_closed", provider=provider)

    def failed(self, provider: str) -> None:
        """See the port."""
        if not provider or not self._failures:
            return
        with self._lock:
            circuit = self._circuits.setdefault(provider, _Circuit())
            circuit.failures += 1
            now, until = self._clock.monotonic(), circuit.until
            # While it is open, calls from before may still fail.
            if now < until if until is not None else circuit.failures < self._failures:
                return
            lasts = min(_LONGEST, self._lasts * 2 ** min(circuit.openings, _DOUBLINGS))
            circuit.openings += 1
            circuit.until = now + lasts.total_seconds()
            circuit.probed_at = None
            # Within the lock: else a round in between takes it for one that the fleet has closed.
            self._news[provider] = None
        self._telemetry.worker_note("circuit_opened", provider=provider, seconds=lasts.total_seconds())

    def left(self, provider: str) -> None:
        """See the port."""
        circuit = self._circuits.get(provider)
        if circuit is not None:
            with self._lock:
                circuit.probed_at = None

    async def keep_in_step(self, every: timedelta = SYNC_EVERY) -> None:
        """Tell the fleet and hear from it, until cancelled. Without a store there is nothing to do."""
        if self._store is None:
            return
        while True:
            with suppress(StorageUnavailable):  # each process knows its own failures; the next round tries again
                await self.sync(self._store)
            await asyncio.sleep(every.total_seconds())

    async def sync(self, store: CircuitStore) -> None:
        """One round of ``keep_in_step``.

        Raises:
            StorageUnavailable: the next round tells what this one could not.
        """
        while self._news:
            provider, _ = self._news.popitem()
            try:
                await self._tell(store, provider, self._circuits[provider])
            except StorageUnavailable:
                self._news[provider] = None
                raise
        opened = await store.opened()
        with self._lock:
            for provider, (lasts, openings) in opened.items():
                self._hear_open(provider, lasts, openings)
            for provider, circuit in self._circuits.items():
                if circuit.until is not None and provider not in opened and provider not in self._news:
                    self._circuits[provider] = _Circuit()
                    self._telemetry.worker_note("circuit_closed", provider=provider, by="another process")

    async def _tell(self, store: CircuitStore, provider: str, circuit: _Circuit) -> None:
        if circuit.until is None:
            await store.close(provider)
            return
        lasts = timedelta(seconds=circuit.until - self._clock.monotonic())
        await store.open(provider, lasts, circuit.openings)

    def _hear_open(self, provider: str, lasts: timedelta, openings: int) -> None:
        if provider in self._news:
            return  # what happened here since is newer
        circuit = self._circuits.setdefault(provider, _Circuit())
        until = self._clock.monotonic() + lasts.total_seconds()
        if circuit.until is None or openings > circuit.openings:
            circuit.until, circuit.openings, circuit.probed_at = until, openings, None
            seconds = lasts.total_seconds()
            self._telemetry.worker_note("circuit_opened", provider=provider, seconds=seconds, by="another process")
