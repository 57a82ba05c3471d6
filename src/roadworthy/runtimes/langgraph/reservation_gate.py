"""The meter of an attempt to which a budget applies: asks for money before each model call, and holds the call until
there is some.

``run`` makes one instead of the plain meter. Why money is reserved here, and what that cannot do, is in
``docs/adr/0012-money-is-reserved-in-a-start-callback.md``.
"""

import asyncio
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import CancelledError as NobodyWaits
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Lock, get_ident
from typing import Any
from uuid import UUID

from langchain_core.callbacks.manager import handle_event
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.outputs import LLMResult

from roadworthy.domain.errors import BudgetExceeded, StorageUnavailable
from roadworthy.domain.usage import ModelCall
from roadworthy.ports.clock import Clock
from roadworthy.ports.runtime import Caps, PlannedCall, RuntimeEvent, Spending
from roadworthy.runtimes.langgraph.attempt_stop import AttemptStop, AttemptStopped
from roadworthy.runtimes.langgraph.metering import ModelMeter
from roadworthy.runtimes.langgraph.model_calls import OpenCall, planned_call


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
        stop: AttemptStop,
        caps: Caps,
        clock: Clock,
        tool_chars: int,
    ) -> None:
        def tell(event: RuntimeEvent) -> None:
            if isinstance(event, ModelCall):
                # At once: the engine's loop, which takes the event, may be held up by the next call.
                spending.ended(event)
            emit(event)

        super().__init__(tell, stop=stop, caps=caps, clock=clock, tool_chars=tool_chars)
        self._spending = spending
        self._loop = asyncio.get_running_loop()
        self._thread = get_ident()
        self._asking_lock = Lock()
        self._given_up = False
        self._asked: set[Future[None]] = set()
        # By call: the task or thread that makes it.
        self._makers: dict[UUID, object] = {}
        # Calls that are expected to be replays, and their makers.
        self._unasked: dict[UUID, tuple[PlannedCall, object]] = {}

    def close(self) -> None:
        """See ``ModelMeter``."""
        with self._asking_lock:
            self._given_up = True
            asked = tuple(self._asked)
        for future in asked:
            future.cancel()

    @property
    def on_chat_model_start(self) -> Callable[..., Any]:  # pyright: ignore[reportIncompatibleMethodOverride] -- a method there
        """A model is about to be called: a coroutine function for who can await it, else a function."""
        return self._chat_model_start if _asked_by_sync_code() else self._chat_model_starts

    @property
    def on_llm_start(self) -> Callable[..., Any]:  # pyright: ignore[reportIncompatibleMethodOverride] -- as above
        """As ``on_chat_model_start``, for models that complete texts."""
        return self._llm_start if _asked_by_sync_code() else self._llm_starts

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **said: object) -> None:
        """See ``ModelMeter``."""
        self._forget(run_id)
        super().on_llm_end(response, run_id=run_id, **said)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **said: object) -> None:
        """See ``ModelMeter``."""
        self._forget(run_id)
        super().on_llm_error(error, run_id=run_id, **said)

    def buy(self, call: OpenCall) -> None:
        """See ``ModelMeter``."""
        run_id = UUID(call.call_id)
        with self._buying(call):
            if (unasked := self._unasked.pop(run_id, None)) is not None:
                self._block(run_id, *unasked)
            self._admit_call()

    async def buys(self, call: OpenCall) -> None:
        """See ``ModelMeter``."""
        run_id = UUID(call.call_id)
        with self._buying(call):
            if (unasked := self._unasked.pop(run_id, None)) is not None:
                await self._wait(run_id, *unasked)
            self._admit_call()

    async def _chat_model_starts(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        **said: Any,  # noqa: ANN401 -- LangChain's
    ) -> None:
        planned = _planned(run_id, messages[0] if messages else (), said)
        if self._expects(messages, said.get("batch_size", 1)):
            self._unasked[run_id] = (planned, asyncio.current_task())
        else:
            await self._wait(run_id, planned)
        super().on_chat_model_start(serialized, messages, run_id=run_id, **said)

    async def _llm_starts(
        self,
        serialized: dict[str, Any],
        prompts: list[str],
        *,
        run_id: UUID,
        **said: Any,  # noqa: ANN401 -- as above
    ) -> None:
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
        planned = _planned(run_id, messages[0] if messages else (), said)
        if self._expects(messages, said.get("batch_size", 1)):
            self._unasked[run_id] = (planned, get_ident())
        else:
            self._block(run_id, planned)
        super().on_chat_model_start(serialized, messages, run_id=run_id, **said)

    def _llm_start(
        self,
        serialized: dict[str, Any],
        prompts: list[str],
        *,
        run_id: UUID,
        **said: Any,  # noqa: ANN401 -- as above
    ) -> None:
        self._block(run_id, _planned(run_id, [HumanMessage(prompt) for prompt in prompts], said))
        super().on_llm_start(serialized, prompts, run_id=run_id, **said)

    async def _wait(self, run_id: UUID, call: PlannedCall, maker: object = None) -> None:
        with self._asking(run_id, maker or asyncio.current_task()) as patient:
            if get_ident() == self._thread:
                await self._spending.reserve(call, patient=patient)
                return
            # On another loop than the engine's, as in ``asyncio.run`` in a tool's thread.
            try:
                await asyncio.wrap_future(self._hand_over(call, patient=patient))
            except asyncio.CancelledError:
                if not self._given_up:
                    raise
                raise AttemptStopped("the attempt has ended") from None

    def _block(self, run_id: UUID, call: PlannedCall, maker: object = None) -> None:
        with self._asking(run_id, maker or get_ident()) as patient:
            if get_ident() != self._thread:
                self._hand_over(call, patient=patient).result()
            elif (refusal := self._spending.refusal()) is not None:
                # Nothing more can be done where waiting would hold up everything, the ledger included.
                raise refusal

    @contextmanager
    def _asking(self, run_id: UUID, maker: object) -> Generator[bool]:
        """The body asks for a call's money; yields whether it may wait.

        Raises:
            AttemptStopped: there is none, or the attempt has ended.
        """
        self._stop.check()
        with self._asking_lock:
            # Whoever has another call open would wait for itself.
            patient = maker not in self._makers.values()
            self._makers[run_id] = maker
        admitted = False
        try:
            yield patient
            admitted = True
        except (BudgetExceeded, StorageUnavailable) as refusal:
            self._stop.trip(refusal)
        except NobodyWaits:
            raise AttemptStopped("the attempt has ended") from None
        finally:
            if not admitted:
                self._makers.pop(run_id, None)

    def _forget(self, run_id: UUID) -> None:
        self._makers.pop(run_id, None)
        self._unasked.pop(run_id, None)

    def _hand_over(self, call: PlannedCall, *, patient: bool) -> "Future[None]":
        """Let the engine's loop ask.

        Raises:
            AttemptStopped: it does so no more.
        """
        with self._asking_lock:
            if self._given_up:
                raise AttemptStopped("the attempt has ended")
            future = asyncio.run_coroutine_threadsafe(self._spending.reserve(call, patient=patient), self._loop)
            self._asked.add(future)
        future.add_done_callback(self._asked.discard)
        return future


def _asked_by_sync_code() -> bool:
    """Whether LangChain asks for a method of the handler in order to call it, not to await it. Even where a loop is
    running it would run a coroutine elsewhere then, and heed nothing that is raised there.
    """
    # The property is asked, and asks here.
    asking = sys._getframe(2)  # noqa: SLF001 -- documented, for CPython  # pyright: ignore[reportPrivateUsage]
    return asking.f_code is handle_event.__code__


def _planned(run_id: UUID, prompt: Sequence[BaseMessage], said: Mapping[str, object]) -> PlannedCall:
    return planned_call(run_id, prompt, _part(said, "metadata"), _part(said, "invocation_params"))


def _part(said: Mapping[str, object], name: str) -> Mapping[str, object]:
    part = said.get(name)
    return part if isinstance(part, Mapping) else {}
