"""The fake provider as its own process: it lives on while servers under test are killed.

Same surface as `fake.FakeProvider`, carried by the control API.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from time import monotonic, sleep
from typing import Self
from urllib.parse import urlsplit

from tests.support.provider.ledger import LedgerEntry, Outcome, parse_entries, with_outcome
from tests.support.provider.script import Rule, Script, Turn, dump_script

_ROOT = Path(__file__).parents[3]
_STOP_SECONDS = 10
_POLL_SECONDS = 0.02


class ProviderProcess:
    """`async with ProviderProcess() as provider:` starts the process and stops it at the end of the block."""

    def __init__(self, *, port: int = 0, ledger_path: Path | None = None) -> None:
        self.url = ""
        self._command = [sys.executable, "-m", "tests.support.provider", "--port", str(port)]
        if ledger_path is not None:
            self._command += ["--ledger", str(ledger_path)]
        self._process: subprocess.Popen[str] | None = None

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(self, *exc_info: object) -> None:
        await asyncio.to_thread(self.__exit__, *exc_info)

    def __enter__(self) -> Self:
        # Its own session: a signal to the process group of the server under test must not reach it.
        self._process = subprocess.Popen(
            self._command,
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        if self._process.stdout is not None:
            self.url = self._process.stdout.readline().strip()
        if not self.url:
            self.__exit__()
            msg = "the provider process ended before it printed its URL"
            raise RuntimeError(msg)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._process is None:
            return
        try:
            self._process.communicate(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    @property
    def ledger(self) -> tuple[LedgerEntry, ...]:
        """All calls so far, in the order of arrival."""
        return parse_entries(self._control("GET", "ledger"))

    @property
    def clients(self) -> int:
        """Open connections, idle ones included."""
        return int(json.loads(self._control("GET", "state"))["clients"])

    def script(self, *turns: Turn, rules: tuple[Rule, ...] = ()) -> None:
        """Replace the script."""
        self._control("POST", "script", dump_script(Script(turns=turns, rules=rules)))

    def release(self, gate: str = "") -> None:
        """Let one call pass the hold of this name, now or when it gets there."""
        self._control("POST", "release", gate.encode())

    def reset(self) -> None:
        """Forget the script and the ledger."""
        self._control("POST", "reset")

    async def wait_for(
        self, predicate: Callable[[tuple[LedgerEntry, ...]], bool], seconds: float = 10
    ) -> tuple[LedgerEntry, ...]:
        """The entries once they satisfy `predicate`.

        Raises:
            TimeoutError: they do not within `seconds`.
        """
        return await asyncio.to_thread(self._poll, predicate, seconds)

    async def wait_for_outcome(self, outcome: Outcome, count: int = 1, seconds: float = 10) -> tuple[LedgerEntry, ...]:
        """The entries with this outcome, once there are `count` of them.

        Raises:
            TimeoutError: there are fewer after `seconds`.
        """
        entries = await self.wait_for(lambda calls: len(with_outcome(calls, outcome)) >= count, seconds)
        return with_outcome(entries, outcome)

    def _poll(self, predicate: Callable[[tuple[LedgerEntry, ...]], bool], seconds: float) -> tuple[LedgerEntry, ...]:
        deadline = monotonic() + seconds
        while not predicate(entries := self.ledger):
            if monotonic() > deadline:
                msg = f"the provider's ledger did not get there: {entries}"
                raise TimeoutError(msg)
            sleep(_POLL_SECONDS)
        return entries

    def _control(self, method: str, name: str, body: bytes = b"") -> bytes:
        connection = HTTPConnection(urlsplit(self.url).netloc, timeout=_STOP_SECONDS)
        try:
            connection.request(method, f"/_control/{name}", body)
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status != 200:
            msg = f"the provider refused {method} {name}: {answer.decode()}"
            raise ValueError(msg)
        return answer
