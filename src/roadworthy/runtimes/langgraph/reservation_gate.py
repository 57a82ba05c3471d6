"""The meter of an attempt that may have budgets: asks for money before each model call, and holds the call until there
is some.

``run`` makes one for each attempt of the engine's. Why money is reserved here, and what that cannot do, is in
``docs/adr/0012-money-is-reserved-in-a-start-callback.md``.
"""

import asyncio
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import CancelledError as NobodyWaits
from concurrent.futures import Future, wait
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from threading import Event, Lock, get_ident
from typing import Any
from uuid import UUID

from langchain_core.messages import BaseMessage, HumanMessage

from roadworthy.domain.errors import BudgetExceeded, LeaseLost, StorageUnavailable
from roadworthy.domain.usage import ModelCall
from roadworthy.ports.circuits import Circuits
from roadworthy.ports.clock import Clock
from roadworthy.ports.runtime import PATIENCE, Caps, PlannedCall, RuntimeEvent, Spending
from roadworthy.runtimes.langgraph.attempt_stop import AttemptStop, AttemptStopped
from roadworthy.runtimes.langgraph.metering import ModelMeter, asked_by_sync_code
from roadworthy.runtimes.langgraph.model_calls import planned_call
from roadworthy.runtimes.langgraph.waiting import Heartbeat, WaitingRoom

# Of a thread for which the waiting room has no place.
_HASTE = timedelta(seconds=1)

# The calls that led to the present one and may wait for it. Tasks and threads that are begun meanwhile inherit it.
_makers: ContextVar[tuple[UUID, ...]] = ContextVar("roadworthy_makers", default=())


class GatedMeter(ModelMeter):
    """See the module. Made on the engine's loop, safe from any thread.

    One handler and not two, because LangChain keeps no order among handlers, and because it makes the coroutines of all
    before it awaits the first: whoever refused would leave those behind it, with a warning.
    """

    def __init__(
        self,
        emit: Callable[[RuntimeEvent], None],
        *,
        spending: Spending,
        room: WaitingRoom,
        stop: AttemptStop,
        caps: Caps,
        clock: Clock,
        circuits: Circuits,
        tool_chars: int,
    ) -> None:
        def tell(event: RuntimeEvent) -> None:
            if isinstance(event, ModelCall):
                # At once: the engine's loop, which takes the event, may be held up by the next call.
                spending.ended(event)
            emit(event)

        super().__init__(tell, stop=stop, caps=caps, clock=clock, circuits=circuits, tool_chars=tool_chars)
        self._spending = spending
        self._room = room
        self._loop = asyncio.get_running_loop()
        self._thread = get_ident()
        self._beat = Heartbeat(self._loop)
        self._asking_lock = Lock()
        self._given_up = False
        self._asked: set[Future[None]] = set()

    def close(self) -> None:
        """See ``ModelMeter``."""
        with self._asking_lock:
            self._given_up = True
            asked = tuple(self._asked)
        for future in asked:
            future.cancel()
        super().close()

    @property
    def on_chat_model_start(self) -> Callable[..., Any]:  # pyright: ignore[reportIncompatibleMethodOverride] -- a method there
        """A model is about to be called: a coroutine function for who can await it, else a function."""
        return self._chat_model_start if asked_by_sync_code() else self._chat_model_starts

    @property
    def on_llm_start(self) -> Callable[..., Any]:  # pyright: ignore[reportIncompatibleMethodOverride] -- as above
        """As ``on_chat_model_start``, for models that complete texts."""
        return self._llm_start if asked_by_sync_code() else self._llm_starts

    async def _chat_model_starts(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        **said: Any,  # noqa: ANN401 -- LangChain's
    ) -> None:
        call = self._opened(run_id, serialized, messages, said)
        if call.replay is None and await self._budgets_fit():
            await self._wait(run_id, _planned(run_id, call.prompt, said))
        self._begin(call, batch_size=said.get("batch_size", 1))

    async def _llm_starts(
        self,
        serialized: dict[str, Any],
        prompts: list[str],
        *,
        run_id: UUID,
        **said: Any,  # noqa: ANN401 -- as above
    ) -> None:
        if await self._budgets_fit():
            await self._wait(run_id, _planned(run_id, [HumanMessage(prompt) for prompt in prompts], said))
        super().on_llm_start(serialized, prompts, run_id=run_id, **said)

    def _chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        **said: Any,  # noqa: ANN401 -- as above
    ) -> None:
        call = self._opened(run_id, serialized, messages, said)
        if call.replay is None and self._spending.applies:
            self._block(run_id, _planned(run_id, call.prompt, said))
        self._begin(call, batch_size=said.get("batch_size", 1))

    def _llm_start(
        self,
        serialized: dict[str, Any],
        prompts: list[str],
        *,
        run_id: UUID,
        **said: Any,  # noqa: ANN401 -- as above
    ) -> None:
        if self._spending.applies:
            self._block(run_id, _planned(run_id, [HumanMessage(prompt) for prompt in prompts], said))
        super().on_llm_start(serialized, prompts, run_id=run_id, **said)

    async def _budgets_fit(self) -> bool:
        if get_ident() == self._thread:
            return await self._spending.budgets_fit()
        return self._spending.applies

    async def _wait(self, run_id: UUID, call: PlannedCall) -> None:
        with self._asking(run_id) as patient:
            if get_ident() == self._thread:
                await self._spending.reserve(call, patience=PATIENCE if patient else None)
                return
            # On another loop than the engine's, as in ``asyncio.run`` in a tool's thread.
            with self._asked_for(call, patient=patient) as asked:
                answer, since = asyncio.wrap_future(asked), self._clock.monotonic()
                while not self._overtakes(call, since, patient=patient):
                    if (await asyncio.wait({answer}, timeout=self._beat.pause))[0]:
                        asked.result()
                        return

    def _block(self, run_id: UUID, call: PlannedCall) -> None:
        with self._asking(run_id) as patient:
            if get_ident() == self._thread:
                # Nothing can be waited for where that holds up everything, the ledger included.
                self._spending.admit(call)
                return
            with self._asked_for(call, patient=patient) as asked:
                since = self._clock.monotonic()
                while not self._overtakes(call, since, patient=patient):
                    if wait({asked}, self._beat.pause).done:
                        asked.result()
                        return

    @contextmanager
    def _asking(self, run_id: UUID) -> Generator[bool]:
        """The body asks for a call's money; yields whether it may wait.

        Raises:
            AttemptStopped: there is none, or the attempt has ended.
        """
        self._stop.check()
        # Whoever has another call open would wait for itself, as in a stream's loop that asks a model.
        makers = tuple(one for one in _makers.get() if one in self._open)
        try:
            yield not makers
        except (BudgetExceeded, LeaseLost, StorageUnavailable) as refusal:
            self._stop.trip(refusal)
        except NobodyWaits:
            raise AttemptStopped("the attempt has ended") from None
        _makers.set((*makers, run_id))

    @contextmanager
    def _asked_for(self, call: PlannedCall, *, patient: bool) -> "Generator[Future[None]]":
        """The engine's loop reserves for the body's thread, until the body ends.

        Raises:
            AttemptStopped: it does so no more.
        """
        needless = Event()
        with self._room.place() as placed:
            patience = (PATIENCE if placed else _HASTE) if patient else None

            async def reserve() -> None:
                if not needless.is_set():
                    await self._spending.reserve(call, patience=patience)

            with self._asking_lock:
                if self._given_up:
                    raise AttemptStopped("the attempt has ended")
                future = asyncio.run_coroutine_threadsafe(reserve(), self._loop)
                self._asked.add(future)
            future.add_done_callback(self._asked.discard)
            try:
                yield future
            finally:
                needless.set()
                future.cancel()

    def _overtakes(self, call: PlannedCall, since: float, *, patient: bool) -> bool:
        """Whether a call is made without a reservation, because the loop that makes them stands still: it may be
        waiting for this very thread, as when an async node calls ``model.batch``.
        """
        if not self._beat.still:
            return False
        if self._spending.admit(call) or not patient:
            return True
        if self._clock.monotonic() - since > PATIENCE.total_seconds():
            raise BudgetExceeded("what is left in a budget is held by calls in flight")
        return False


def _planned(run_id: UUID, prompt: Sequence[BaseMessage], said: Mapping[str, object]) -> PlannedCall:
    return planned_call(run_id, prompt, _part(said, "metadata"), _part(said, "invocation_params"))


def _part(said: Mapping[str, object], name: str) -> Mapping[str, object]:
    part = said.get(name)
    return part if isinstance(part, Mapping) else {}
