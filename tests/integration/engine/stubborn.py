"""Agents that do what a well-behaved one never does."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager

from roadworthy.domain.event import ContentDelta
from roadworthy.domain.run import Run
from roadworthy.ports.runtime import Caps, Completed, Execution, RuntimeEvent, Spending
from roadworthy.runtimes.scripted import ScriptedExecution, ScriptedRuntime
from tests.integration.engine.stage import call


class StubbornExecution(ScriptedExecution):
    """Says that it has begun, swallows every cancellation, and when its gate opens goes on as if nothing had been."""

    def __init__(self, runtime: ScriptedRuntime, run: Run, gate: asyncio.Event) -> None:
        super().__init__(runtime, run, ())
        self.swallowed = 0
        self._gate = gate
        self._ended = asyncio.Event()

    async def events(self) -> AsyncIterator[RuntimeEvent]:
        """See the class."""
        yield ContentDelta(message_id="m", text="begun")
        while not self._gate.is_set():
            try:
                await self._gate.wait()
            except asyncio.CancelledError:
                self.swallowed += 1
        yield ContentDelta(message_id="m", text=" and too late")
        yield call("late")
        self._ended.set()
        yield Completed(response="too late", output=None, structured_response=None)

    async def settled(self) -> None:
        """See the port."""
        await self._ended.wait()

    @property
    def settled_now(self) -> bool:
        """See the port."""
        return self._ended.is_set()


class StubbornRuntime(ScriptedRuntime):
    """Every run is stubborn, until the gate ``stubborn`` opens."""

    @asynccontextmanager
    async def execution(
        self,
        run: Run,
        *,
        caps: Caps,
        first_on_thread: bool,
        spending: Spending | None = None,
        told: Collection[str] = (),
    ) -> AsyncGenerator[Execution]:
        """See the port."""
        execution = StubbornExecution(self, run, self.gate("stubborn"))
        self.executions.append(execution)
        yield execution


class UnopenableRuntime(ScriptedRuntime):
    """Fails to prepare an attempt as long as ``error`` is set."""

    error: Exception | None = None

    @asynccontextmanager
    async def execution(
        self,
        run: Run,
        *,
        caps: Caps,
        first_on_thread: bool,
        spending: Spending | None = None,
        told: Collection[str] = (),
    ) -> AsyncGenerator[Execution]:
        """See the port."""
        if self.error is not None:
            raise self.error
        async with super().execution(
            run, caps=caps, first_on_thread=first_on_thread, spending=spending, told=told
        ) as execution:
            yield execution


class ForgetfulRuntime(ScriptedRuntime):
    """Keeps nothing of what earlier attempts have said, and says it all again."""

    async def surviving(self, run: Run, shown: Mapping[str, str]) -> Collection[str]:
        """See the port."""
        return ()
