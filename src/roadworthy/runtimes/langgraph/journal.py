"""An attempt's journal: finished model responses, kept so that the step in flight at a crash is not bought again.

``run`` makes one per attempt and loads what earlier attempts left; ``metering`` asks it for a response when a model
call starts, and hands it each new one; ``model_cache`` gives what was found to the graph. Rows: ``journal_rows``.
What it reaches, and why it is built so: ``docs/adr/0013-responses-are-journalled-when-they-end.md``.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import wait
from contextlib import suppress
from contextvars import ContextVar
from threading import Lock, get_ident
from typing import TypeAlias, cast

from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGeneration
from langgraph.checkpoint.serde.base import SerializerProtocol

from roadworthy.domain.errors import LeaseLost, StorageUnavailable
from roadworthy.domain.ids import new_id
from roadworthy.domain.usage import ModelCall
from roadworthy.ports.clock import Clock
from roadworthy.runtimes.langgraph.current import AttemptScope
from roadworthy.runtimes.langgraph.journal_place import Asked, Place, find_place
from roadworthy.runtimes.langgraph.journal_rows import Row, forget_billed, keep_row, load_rows, spend_thread
from roadworthy.runtimes.langgraph.model_calls import OpenCall, Replay
from roadworthy.runtimes.langgraph.rows import Rows
from roadworthy.runtimes.langgraph.savers import FencedSaver
from roadworthy.runtimes.langgraph.waiting import Heartbeat

# The checkpoint that a call stands on takes milliseconds; nothing waits for it without a bound.
_PATIENCE_SECONDS = 10.0

_Key: TypeAlias = tuple[str, str]

attempt_journal: "ContextVar[AttemptJournal | None]" = ContextVar("roadworthy_journal", default=None)


class AttemptJournal:
    """See the module. Made on the attempt's loop; ``find``, ``asked`` and ``keep_from_thread`` are for any thread."""

    def __init__(self, *, scope: AttemptScope, saver: FencedSaver, clock: Clock) -> None:
        self.loop = asyncio.get_running_loop()
        self._thread_of_loop = get_ident()
        self._scope = scope
        self._rows = saver.rows
        self._serde: SerializerProtocol = saver.serde
        self._clock = clock
        self._beat = Heartbeat(self.loop)
        self._lock = Lock()
        self._left: dict[_Key, deque[Row]] = {}
        self._counts: dict[_Key, int] = {}

    @property
    def on_its_loop(self) -> bool:
        """Whether the caller is on the thread of the attempt's loop."""
        return get_ident() == self._thread_of_loop

    async def load(self) -> None:
        """Take over what earlier attempts were answered on the thread's latest checkpoints."""
        thread = self._scope.watch.thread

        for row in await self._rows.transact(lambda rows: load_rows(rows, thread), harmless=True):
            key = (row.namespace, row.hash)
            self._left.setdefault(key, deque()).append(row)
            self._counts[key] = row.occurrence + 1

    async def spend(self) -> None:
        """Nothing is given back any more: the next run of the thread asks anew."""
        scope = self._scope

        with suppress(LeaseLost, StorageUnavailable):
            await self._rows.transact(lambda rows: spend_thread(rows, scope.watch.thread), fence=scope, harmless=True)

    async def billed(self) -> None:
        """The run has ended, and its calls are on record: let go of what was kept for that. What fails is left to the
        thread's next run.
        """
        watch, run_id = self._scope.watch, self._scope.run_id

        with suppress(StorageUnavailable):
            await self._rows.transact(
                lambda rows: forget_billed(rows, watch.thread, run_id, watch.root_id), harmless=True
            )

    @property
    def has_answers(self) -> bool:
        """Whether earlier attempts left any."""
        return bool(self._left)

    def asked(self, question: str | None) -> Asked | None:
        """What the code that asks now wants to know; None when no later attempt could ask the same."""
        place = None if question is None else find_place(self._scope.watch)
        return None if place is None or question is None else Asked(place=place, hash=question)

    def find(self, asked: Asked) -> Replay | None:
        """The response that an earlier attempt got here, each once, in their order."""
        rows = self._left.get((asked.place.namespace, asked.hash))
        while rows:
            with self._lock:
                row = rows.popleft() if rows else None
            if row is not None and (answers := self._answers(row)) is not None:
                usage = getattr(answers[0].message, "usage_metadata", None)
                return Replay(call=row.call, answers=answers, own=row.run_id == self._scope.run_id, usage=usage)
        return None

    def keep_from_thread(self, call: OpenCall, answers: Sequence[ChatGeneration]) -> ModelCall | None:
        """As ``keep_soon``, for code that cannot await. Gives up where it would wait for itself: on the loop's own
        thread, and while the loop waits for this one.
        """
        if self.on_its_loop or not self._can_keep(call, answers):
            return None
        keeping = asyncio.run_coroutine_threadsafe(self.keep(call, answers), self.loop)
        while not wait({keeping}, self._beat.pause).done:
            if self._beat.still:
                keeping.cancel()
                return None
        return keeping.result()

    async def keep_soon(self, call: OpenCall, answers: Sequence[ChatGeneration]) -> ModelCall | None:
        """As ``keep``, for code on whatever loop; also None where there is nothing that could be kept."""
        if not self._can_keep(call, answers):
            return None
        if self.on_its_loop:
            return await self.keep(call, answers)
        # As in ``asyncio.run`` in a tool's thread.
        keeping = asyncio.run_coroutine_threadsafe(self.keep(call, answers), self.loop)
        kept = asyncio.wrap_future(keeping)
        while not (await asyncio.wait({kept}, timeout=self._beat.pause))[0]:
            if self._beat.still:
                keeping.cancel()
                return None
        return keeping.result()

    def _can_keep(self, call: OpenCall, answers: Sequence[ChatGeneration]) -> bool:
        return call.asked is not None and not call.cached and bool(answers) and not self.loop.is_closed()

    async def keep(self, call: OpenCall, answers: Sequence[ChatGeneration]) -> ModelCall | None:
        """Store a response. Returns the call as it is on record then; None when a crash would lose it.

        Waits for the checkpoint that the call stands on. On the attempt's loop.
        """
        if (asked := call.asked) is None:
            return None
        for answer in answers:
            if answer.message.id is None:
                # The state would give it one of its own, another one each time.
                answer.message.id = f"lc_run--{new_id()}"
        call.take_answer(answers[0].message)
        record = call.ended("complete", self._clock.now())
        try:
            value = self._serde.dumps_typed([(answer.message, answer.generation_info) for answer in answers])
        except Exception:  # noqa: BLE001 -- what a provider's client adds to its answers is its own business
            return None
        row = self._next_row(asked, record, value)
        try:
            return record if await self._store(asked.place, row) else None
        except (LeaseLost, StorageUnavailable):
            # The checkpointer is about to meet the same; the answer is paid for.
            return None

    def _next_row(self, asked: Asked, record: ModelCall, value: tuple[str, bytes]) -> Row:
        key = (asked.place.namespace, asked.hash)
        with self._lock:
            occurrence = self._counts.get(key, 0)
            self._counts[key] = occurrence + 1
        return Row(
            namespace=asked.place.namespace,
            hash=asked.hash,
            occurrence=occurrence,
            run_id=self._scope.run_id,
            call=record,
            value=value,
        )

    async def _store(self, place: Place, row: Row) -> bool:
        scope, watch = self._scope, self._scope.watch

        async def keep_response(rows: Rows) -> bool:
            return await keep_row(rows, watch.thread, place, row)

        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                while True:
                    coming = watch.coming()
                    if await self._rows.transact(keep_response, fence=scope, harmless=True):
                        return True
                    if watch.over:
                        return False
                    await coming.wait()
        except TimeoutError:
            return False

    def _answers(self, row: Row) -> Sequence[ChatGeneration] | None:
        """The answers of a row; None when they cannot be read any more."""
        try:
            found = cast("list[tuple[object, dict[str, object] | None]]", self._serde.loads_typed(row.value))
            answers = [
                ChatGeneration(message=message, generation_info=info)
                for message, info in found
                if isinstance(message, BaseMessage)
            ]
        except (TypeError, ValueError):
            return None
        return answers if answers and len(answers) == len(found) else None
