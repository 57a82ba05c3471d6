"""The watchdog: a process whose event loop is wedged ends itself, so that its supervisor starts a new one.

Restart policies of container engines act on exit only; an unhealthy container is not restarted.
"""

import asyncio
import faulthandler
import os
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Self

EXIT_WEDGED = 70


def _exit_wedged() -> None:
    sys.stderr.write("roadworthy: the event loop is wedged; ending the process. Stacks of all threads follow.\n")
    faulthandler.dump_traceback(all_threads=True)
    sys.stderr.flush()
    os._exit(EXIT_WEDGED)


class Watchdog:
    """While entered, a thread checks that ``beat`` was called within ``timeout``; else it calls ``on_wedged`` once."""

    def __init__(self, timeout: timedelta, on_wedged: Callable[[], None] = _exit_wedged) -> None:
        self._timeout = timeout.total_seconds()
        self._on_wedged = on_wedged
        self._pause = min(1.0, self._timeout / 4)
        self._beats = 0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join()

    def beat(self) -> None:
        """The loop is alive."""
        self._beats += 1

    def beats(self) -> int:
        """Grows as long as the loop is alive. From any thread."""
        return self._beats

    async def keep_beating(self) -> None:
        """Beat from the event loop until cancelled."""
        while True:
            self.beat()
            await asyncio.sleep(self._pause)

    def _watch(self) -> None:
        # Counted in rounds of this thread, not by the clock: a process that somebody had stopped for a while wakes up
        # late, but its loop is not wedged.
        seen, silent = self._beats, 0
        while not self._closed.wait(self._pause):
            if self._beats != seen:
                seen, silent = self._beats, 0
                continue
            silent += 1
            if silent * self._pause > self._timeout:
                self._on_wedged()
                return
