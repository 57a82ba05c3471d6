"""The fake provider in the test's own process, on its own thread and loop, so that sync clients can use it too."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Self

from tests.support.provider.ledger import LedgerEntry, Outcome, with_outcome
from tests.support.provider.script import Rule, Script, Turn
from tests.support.provider.server import ProviderServer

_START_SECONDS = 10
# LangChain keeps one HTTP client per URL for ever. With one address for all, a provider could get the port of an
# earlier test's, whose client belongs to a loop that is closed; so each has a loopback address of its own.
_HOSTS = (f"127.{16 + n // 62_500 % 200}.{n // 250 % 250}.{n % 250 + 1}" for n in count())


class FakeProvider:
    """`async with FakeProvider() as provider:` serves at `provider.url` until the block ends."""

    def __init__(self, *, host: str | None = None, port: int = 0, ledger_path: Path | None = None) -> None:
        self.url = ""
        self._host = next(_HOSTS) if host is None else host
        self._port = port
        self._ledger_path = ledger_path
        self._ready: Future[tuple[ProviderServer, asyncio.AbstractEventLoop]] = Future()
        self._thread = Thread(target=self._serve, name="fake-provider", daemon=True)

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.__enter__)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await asyncio.to_thread(self.__exit__, *exc_info)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.result(_START_SECONDS)
        return self

    def __exit__(self, *exc_info: object) -> None:
        server, loop = self._ready.result()
        if self._thread.is_alive():
            loop.call_soon_threadsafe(server.stop.set)
        self._thread.join(_START_SECONDS)

    @property
    def ledger(self) -> tuple[LedgerEntry, ...]:
        """All calls so far, in the order of arrival."""
        return self._server.ledger.entries()

    @property
    def clients(self) -> int:
        """Open connections, idle ones included."""
        return self._server.clients

    def script(self, *turns: Turn, rules: tuple[Rule, ...] = ()) -> None:
        """Replace the script."""
        self._server.playbook.load(Script(turns=turns, rules=rules))

    def release(self, gate: str = "") -> None:
        """Let one call pass the hold of this name, now or when it gets there."""
        server, loop = self._ready.result()
        loop.call_soon_threadsafe(server.gates.release, gate)

    def reset(self) -> None:
        """Forget the script and the ledger."""
        self._server.playbook.load(Script())
        self._server.ledger.clear()

    async def wait_for(
        self, predicate: Callable[[tuple[LedgerEntry, ...]], bool], seconds: float = 10
    ) -> tuple[LedgerEntry, ...]:
        """The entries once they satisfy `predicate`.

        Raises:
            TimeoutError: they do not within `seconds`.
        """
        if not await asyncio.to_thread(self._server.ledger.wait_for, predicate, seconds):
            msg = f"the provider's ledger did not get there: {self.ledger}"
            raise TimeoutError(msg)
        return self.ledger

    async def wait_for_outcome(self, outcome: Outcome, count: int = 1, seconds: float = 10) -> tuple[LedgerEntry, ...]:
        """The entries with this outcome, once there are `count` of them.

        Raises:
            TimeoutError: there are fewer after `seconds`.
        """
        entries = await self.wait_for(lambda calls: len(with_outcome(calls, outcome)) >= count, seconds)
        return with_outcome(entries, outcome)

    @property
    def _server(self) -> ProviderServer:
        return self._ready.result()[0]

    def _serve(self) -> None:
        asyncio.run(self._serve_until_stopped())

    async def _serve_until_stopped(self) -> None:
        server = ProviderServer(host=self._host, port=self._port, ledger_path=self._ledger_path)

        def started(url: str) -> None:
            self.url = url
            self._ready.set_result((server, asyncio.get_running_loop()))

        try:
            await server.run(started)
        except OSError as error:
            self._ready.set_exception(error)
