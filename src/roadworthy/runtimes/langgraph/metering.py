"""Watches every model call of an attempt: counts, meters and streams it, and throws away what the provider cut off.

A callback handler that LangChain attaches to everything run in the attempt's context, so that ``callbacks=[]`` does not
escape it. ``run`` makes one; it speaks through the attempt's outbox. Tool calls are watched by ``tool_events``.
"""

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from threading import Lock
from typing import Any
from uuid import UUID

from langchain_core.callbacks.manager import handle_event
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGenerationChunk, GenerationChunk, LLMResult
from langchain_core.tracers.context import register_configure_hook
from langgraph.errors import GraphBubbleUp
from langgraph.pregel._messages import StreamMessagesHandler

from roadworthy.domain.errors import LimitReached, ProviderUnavailable
from roadworthy.domain.event import ContentDelta, ContentRetracted
from roadworthy.domain.usage import ModelCall
from roadworthy.ports.circuits import Circuits
from roadworthy.ports.clock import Clock
from roadworthy.ports.runtime import Caps, ModelReplayed, Progress, RuntimeEvent
from roadworthy.runtimes.langgraph.attempt_stop import AttemptStop
from roadworthy.runtimes.langgraph.journal import attempt_journal
from roadworthy.runtimes.langgraph.journal_question import question_of
from roadworthy.runtimes.langgraph.jsonable import clean_text
from roadworthy.runtimes.langgraph.messages import text_of
from roadworthy.runtimes.langgraph.model_cache import asks_cache, hook_is_placed
from roadworthy.runtimes.langgraph.model_calls import (
    OpenCall,
    Replay,
    chat_answers,
    enter_call,
    first_message,
    open_call,
    text_length,
)
from roadworthy.runtimes.langgraph.provider_errors import is_providers_trouble, was_refused
from roadworthy.runtimes.langgraph.stop_fields import is_cut
from roadworthy.runtimes.langgraph.tool_events import ToolEvents

_PROGRESS_SECONDS = 0.25
_KEPT_ERRORS = 8

attempt_meter: "ContextVar[ModelMeter | None]" = ContextVar("roadworthy_meter", default=None)
register_configure_hook(attempt_meter, inheritable=True)


class ModelMeter(StreamMessagesHandler):
    """One attempt's watch. Safe from any thread.

    A StreamMessagesHandler, because that is what makes models stream inside ``invoke`` without making LangGraph stream
    every node; all of its methods for models are our own, and nodes do not call it.
    """

    run_inline = True
    raise_error = True

    def __init__(
        self,
        emit: Callable[[RuntimeEvent], None],
        *,
        stop: AttemptStop,
        caps: Caps,
        clock: Clock,
        circuits: Circuits,
        tool_chars: int,
    ) -> None:
        super().__init__(_nowhere, subgraphs=True)
        self._put = emit
        self._stop = stop
        self._caps = caps
        self._clock = clock
        self._circuits = circuits
        self._lock = Lock()
        self._open: dict[UUID, OpenCall] = {}
        # Providers of calls that their circuits let through, and that have not ended.
        self._let_through: dict[UUID, str] = {}
        self._model_calls = 0
        self._last_progress = 0.0
        self.tools = ToolEvents(emit, clock=clock, max_chars=tool_chars)
        self.streamed: set[str] = set()
        self.model_errors: list[BaseException] = []

    @property
    def ignore_chain(self) -> bool:
        """Nodes and chains call many more callbacks than models do, and nothing here needs them."""
        return True

    @property
    def ignore_retriever(self) -> bool:
        """As ``ignore_chain``."""
        return True

    def close(self) -> None:
        """Nobody waits for a call any longer. After ``AttemptStop.close``."""
        # One that is cancelled, or refused after its circuit was asked, tells nobody that it ended.
        with self._lock:
            providers, self._let_through = set(self._let_through.values()), {}
        for provider in providers:
            self._circuits.left(provider)

    def open_calls(self) -> Sequence[ModelCall]:
        """Calls that have neither ended nor failed, as if they were cancelled now."""
        now = self._clock.now()
        with self._lock:
            return tuple(
                call.completed(now) if call.answered else call.ended("cancelled", now, cut_short=True)
                for call in self._open.values()
                if call.owes
            )

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        **said: Any,  # noqa: ANN401 -- LangChain's
    ) -> None:
        """A model is about to be called.

        Raises:
            AttemptStopped: it may not be.
        """
        self._begin(self._opened(run_id, serialized, messages, said), batch_size=said.get("batch_size", 1))

    def on_llm_start(
        self,
        serialized: dict[str, Any],  # noqa: ARG002 -- as above
        prompts: list[str],
        *,
        run_id: UUID,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **_: object,
    ) -> None:
        """As ``on_chat_model_start``, for models that complete texts."""
        prompt = [HumanMessage(text) for text in prompts]
        call = open_call(run_id, prompt, tags or (), metadata or {}, self._clock.now())
        self._ask_circuit(run_id, call.provider)
        self._admit_call()
        self._open[run_id] = call

    def on_llm_new_token(
        self,
        token: str,  # noqa: ARG002 -- as above
        *,
        chunk: GenerationChunk | ChatGenerationChunk | None = None,
        run_id: UUID,
        **_: object,
    ) -> None:
        """A piece of an answer. The hot path of a stream."""
        call = self._open.get(run_id)
        if call is None or not isinstance(chunk, ChatGenerationChunk):
            return
        if call.replay is not None:
            self._was_bought(call)
        message = chunk.message
        content: object = message.content
        text = content if isinstance(content, str) else text_of(content)
        call.chunks += 1
        if message.id is not None:
            call.message_id = message.id
        # Text and usage may come in one piece.
        call.take_silent(message)
        if text:
            call.chars += len(text)
            if call.speaks and call.message_id is not None:
                call.shown = True
                self._put(ContentDelta(message_id=call.message_id, text=clean_text(text), node=call.node))
                return
        self._progress()

    @property
    def on_llm_end(self) -> Callable[..., Any]:  # pyright: ignore[reportIncompatibleMethodOverride] -- a method there
        """An answer is complete, or claims to be: a coroutine function for who can await it, else a function."""
        return self._llm_end if asked_by_sync_code() else self._llm_ends

    async def _llm_ends(self, response: LLMResult, *, run_id: UUID, **_: object) -> None:
        """Keeps the answer before the graph sees it.

        Raises:
            ProviderUnavailable: the provider cut it off; nothing may act on it.
        """
        if (call := self._answered(run_id, response)) is not None:
            try:
                if (journal := attempt_journal.get()) is not None:
                    call.kept = await journal.keep_soon(call, chat_answers(response))
            finally:
                self._record(run_id, call)

    def _llm_end(self, response: LLMResult, *, run_id: UUID, **_: object) -> None:
        """As ``_llm_ends``."""
        if (call := self._answered(run_id, response)) is not None:
            try:
                if (journal := attempt_journal.get()) is not None:
                    call.kept = journal.keep_from_thread(call, chat_answers(response))
            finally:
                self._record(run_id, call)

    def _answered(self, run_id: UUID, response: LLMResult) -> OpenCall | None:
        """Take and show an answer; None when there is nothing more to do."""
        call = self._open.get(run_id)
        if call is None:
            return None
        if call.replay is not None and not call.delivered:
            self._was_bought(call)
        message = first_message(response)
        if message is None:
            call.chars = max(call.chars, text_length(response))
        else:
            call.take_answer(message)
            cut = is_cut(message, call.provider) if call.owes else False
            call.judged = cut is not None
            if cut:
                self._close(run_id)
                self._fail(call, "cut")
                self._circuits.failed(call.provider)
                raise ProviderUnavailable("the model provider cut its answer off")
            if call.replay is not None:
                self._tell_again(call, call.replay, message)
                self._close(run_id)
                return None
            self._show_whole(call, message)
        call.closed = call.answered = True
        return call

    def _record(self, run_id: UUID, call: OpenCall) -> None:
        if self._close(run_id) is not None:
            if call.owes:
                self._circuits.answered(call.provider)
            self._put(call.completed(self._clock.now()))

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **_: object) -> None:
        """A call failed, or was cancelled where LangChain notices."""
        if (call := self._close(run_id)) is None:
            return
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            self._fail(call, "cancelled")
            self._circuits.left(call.provider)
            return
        self.model_errors = [*self.model_errors[1 - _KEPT_ERRORS :], error]
        refused = not call.chunks and was_refused(error)
        self._fail(call, "failed", free=refused)
        if call.owes:
            (self._circuits.failed if is_providers_trouble(error) else self._circuits.answered)(call.provider)

    def on_tool_start(
        self,
        serialized: dict[str, Any],
        input_str: str,
        *,
        run_id: UUID,
        inputs: dict[str, Any] | None = None,
        tool_call_id: str | None = None,
        **_: object,
    ) -> None:
        """A tool is about to run.

        Raises:
            AttemptStopped: it may not.
        """
        self._stop.check()
        if self.tools.started_count >= self._caps.tool_calls:
            self._stop.trip(LimitReached(f"the run reached its limit of {self._caps.tool_calls} tool calls"))
        self.tools.start(run_id, str(serialized.get("name", "")), inputs, input_str, tool_call_id)

    def on_tool_end(self, output: object, *, run_id: UUID, **_: object) -> None:
        """A tool returned."""
        self.tools.end(run_id, output)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **_: object) -> None:
        """A tool raised. One that asks a human, or is stopped with its run, has not ended."""
        if not isinstance(error, GraphBubbleUp | asyncio.CancelledError):
            self.tools.fail(run_id, error)

    def _admit_call(self) -> None:
        self._stop.check()
        with self._lock:
            over = self._model_calls >= self._caps.model_calls
            self._model_calls += not over
        if over:
            self._stop.trip(LimitReached(f"the run reached its limit of {self._caps.model_calls} model calls"))

    def _opened(
        self,
        run_id: UUID,
        serialized: Mapping[str, Any] | None,
        messages: Sequence[Sequence[BaseMessage]],
        said: Mapping[str, Any],
    ) -> OpenCall:
        """The call that is about to start, with the answer to it if the journal has one."""
        prompt = messages[0] if messages else ()
        metadata, params = said.get("metadata") or {}, said.get("invocation_params") or {}
        call = open_call(run_id, prompt, said.get("tags") or (), metadata, self._clock.now(), invocation_params=params)
        journal = attempt_journal.get()
        # Which answer of several belongs to which call is not told.
        if journal is not None and said.get("batch_size", 1) == 1 and asks_cache():
            call.asked = journal.asked(question_of(prompt, serialized, params, metadata))
            if call.asked is not None and journal.has_answers and hook_is_placed():
                call.replay = journal.find(call.asked)
        if call.replay is None:
            self._ask_circuit(run_id, call.provider)
        return call

    def _ask_circuit(self, run_id: UUID, provider: str) -> None:
        self._stop.check()
        self._circuits.check(provider)
        if provider:
            self._let_through[run_id] = provider

    def _begin(self, call: OpenCall, *, batch_size: int) -> None:
        """Neither a limit nor a budget can refuse a replay."""
        if call.replay is None:
            self._admit_call()
        else:
            self._stop.check()
        self._open[UUID(call.call_id)] = call
        enter_call(call if batch_size == 1 else None)

    def _close(self, run_id: UUID) -> OpenCall | None:
        with self._lock:
            call = self._open.pop(run_id, None)
            self._let_through.pop(run_id, None)
        if call is not None:
            call.closed = True
        return call

    def _was_bought(self, call: OpenCall) -> None:
        """There was an answer to the call, but the model has asked no cache."""
        call.replay = None
        with self._lock:
            self._model_calls += 1

    def _progress(self) -> None:
        """A piece without text shows nothing, but the run is alive."""
        now = self._clock.monotonic()
        if now - self._last_progress >= _PROGRESS_SECONDS:
            self._last_progress = now
            self._put(Progress())

    def _show_whole(self, call: OpenCall, message: BaseMessage) -> None:
        """A model that does not stream speaks in one piece."""
        if call.message_id is None or not call.speaks:
            return
        self.streamed.add(call.message_id)
        if not call.shown and (text := text_of(message.content)):
            self._put(ContentDelta(message_id=call.message_id, text=clean_text(text), node=call.node))

    def _tell_again(self, call: OpenCall, replay: Replay, message: BaseMessage) -> None:
        if isinstance(message, AIMessage):
            # LangChain notes on what comes from a cache that it cost nothing.
            message.usage_metadata = replay.usage
        self._show_whole(call, message)
        # What another run of the thread has bought is on that run's account.
        self._put(ModelReplayed(call=replay.call) if replay.own else Progress())

    def _fail(self, call: OpenCall, outcome: str, *, free: bool = False) -> None:
        if not call.owes:
            return
        if call.shown and call.message_id is not None:
            self._put(ContentRetracted(message_id=call.message_id))
        self._put(call.ended(outcome, self._clock.now(), free=free))


def asked_by_sync_code() -> bool:
    """For a property of a handler: whether LangChain asks for it in order to call it, not to await it.

    Even where a loop is running it would run a coroutine elsewhere then, and heed nothing that is raised there.
    """
    # The property is asked, and asks here.
    asking = sys._getframe(2)  # noqa: SLF001 -- documented, for CPython  # pyright: ignore[reportPrivateUsage]
    return asking.f_code is handle_event.__code__


def _nowhere(_: object) -> None:
    """LangGraph's own way of sending, unused."""
