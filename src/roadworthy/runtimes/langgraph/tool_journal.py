"""An attempt's memory of tool calls: results of finished ones come back instead of being made again.

``run`` makes one for an attempt, ``guards`` asks it around every call of a ToolNode. It writes ``tool_rows`` over the
checkpointer's own connection: a result is durable before the graph sees it, and a tool that must run only once is
noted before it begins.
"""

import asyncio
import json
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from threading import get_ident
from typing import Any, NoReturn

from langchain_core.messages import AIMessage, ToolMessage
from langgraph.checkpoint.serde.base import SerializerProtocol

from roadworthy.domain.errors import AgentFailed, NeedsReview, StorageUnavailable
from roadworthy.domain.run import InputKind, Run
from roadworthy.domain.thread import ThreadRef
from roadworthy.domain.tool_effect import ToolEffect
from roadworthy.ports.clock import Clock
from roadworthy.runtimes.langgraph.attempt_stop import AttemptStop
from roadworthy.runtimes.langgraph.journal_place import CheckpointWatch, find_place
from roadworthy.runtimes.langgraph.journal_rows import stands
from roadworthy.runtimes.langgraph.jsonable import to_json
from roadworthy.runtimes.langgraph.keys import thread_key
from roadworthy.runtimes.langgraph.rows import Fence, Found, RowDatabase, Rows, Unit
from roadworthy.runtimes.langgraph.tool_results import ToolResult, messages_in_result, result_of, written
from roadworthy.runtimes.langgraph.tool_rows import (
    CallState,
    ToolRow,
    find_row,
    leave_behind,
    lost_rows,
    put_in_review,
    put_row,
    take_over,
    withdraw_row,
)

_ARGS_CHARS = 100_000
_UNKNOWN = "This call was cut off. It is not known whether it took effect."
_IN_DOUBT = frozenset({CallState.STARTED, CallState.REVIEW})
# The checkpoints that a call stands on take milliseconds; nothing waits for them without a bound.
_PATIENCE_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """The result of an earlier execution, and how long that took."""

    result: ToolResult
    duration_ms: int


class ToolJournal:
    """One attempt's. Its coroutines belong to the attempt's event loop; ``wait`` lets other threads use them."""

    def __init__(
        self,
        run: Run,
        *,
        rows: RowDatabase,
        fence: Fence,
        watch: CheckpointWatch,
        serde: SerializerProtocol,
        clock: Clock,
        stop: AttemptStop,
    ) -> None:
        self.run = run
        self.watch = watch
        self.thread = thread_key(ThreadRef(owner=run.owner, thread_id=run.thread_id))
        self.serde = serde
        self.clock = clock
        self.stop = stop
        self._rows = rows
        self._fence = fence
        self._loop = asyncio.get_running_loop()
        self._thread_of_loop = get_ident()
        self._tasks: dict[str, str] = {}
        # Nothing of the run's own work can have been lost yet.
        self.fresh = run.request.kind is InputKind.INPUT and run.attempt == 1
        self._swept = run.request.kind is not InputKind.INPUT

    def key(self, call_id: str) -> str:
        """The call's idempotency key, the same in every attempt."""
        return f"{self.thread}:{call_id}"

    @property
    def on_loop(self) -> bool:
        """Whether the caller is on the thread of the journal's loop, where ``wait`` would wait for itself."""
        return get_ident() == self._thread_of_loop

    def wait(self, work: Coroutine[Any, Any, Found]) -> Found:
        """The result of a coroutine of the journal, for code that runs in a thread.

        Raises:
            AgentFailed: it runs in the loop's own.
        """
        if self.on_loop:
            work.close()
            raise AgentFailed("a tool that must run only once was called by code that holds up the server")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def answers(self, call_ids: Sequence[str]) -> Sequence[ToolMessage]:
        """What the model can be told about calls that its conversation leaves open, as far as anything is known."""

        async def find(rows: Rows) -> Sequence[ToolRow | None]:
            return [await find_row(rows, self.thread, id_) for id_ in call_ids]

        known = await self.transact(find, write=False)
        return [message for row in known if row is not None for message in self._told(row)]

    def may_be_known(self, call_id: str, task: str) -> bool:
        """Whether the call can have been executed before. A model that uses an id in two tasks means two calls."""
        before = self._tasks.get(call_id)
        self._tasks[call_id] = task
        return before == task if before is not None else not self.fresh

    async def transact(self, unit: Unit[Found], *, write: bool, harmless: bool = True) -> Found:
        """Execute a unit in one transaction. The first that writes also clears away what earlier runs have left.
        ``harmless``: as in ``RowDatabase.transact``.

        Raises:
            LeaseLost: the attempt's fence is up.
            StorageUnavailable: the database failed.
        """

        async def in_order(rows: Rows) -> Found:
            if write and not self._swept:
                await leave_behind(rows, self.thread, self.run.run_id)
            return await unit(rows)

        done = await self._rows.transact(in_order, fence=self._fence if write else None, harmless=harmless)
        self._swept = self._swept or write
        return done

    def _told(self, row: ToolRow) -> Iterator[ToolMessage]:
        if row.state in _IN_DOUBT:
            yield ToolMessage(_UNKNOWN, tool_call_id=row.tool_call_id, name=row.name, status="error")
        elif (result := result_of(self.serde, row)) is not None:
            yield from (one for one in messages_in_result(result) if one.tool_call_id == row.tool_call_id)


class JournalledCall:
    """One execution of one tool call. Made in the task that calls the tool."""

    def __init__(
        self,
        journal: ToolJournal,
        *,
        call_id: str,
        name: str,
        args: object,
        effect: ToolEffect | None,
        task: str,
        state: object,
    ) -> None:
        self.once = effect is ToolEffect.ONCE
        self.journal = journal
        self._task = task
        self._state = state
        self._place = find_place(journal.watch) if self.once else None
        self._row = ToolRow(
            thread_key=journal.thread,
            tool_call_id=call_id,
            run_id=journal.run.run_id,
            attempt=journal.run.attempt,
            name=name,
            args=json.dumps(to_json(args, max_chars=_ARGS_CHARS), sort_keys=True),
            effect="" if effect is None else effect.value,
            state=CallState.STARTED,
            started_at=journal.clock.now(),
        )

    async def recall(self) -> Remembered | None:
        """What came of the call before; None: run the tool, which is noted if it must run only once.

        Raises:
            AttemptStopped: nobody knows what came of it, and it must not run again.
            LeaseLost, StorageUnavailable: as ``ToolJournal.transact``.
        """
        known = self.journal.may_be_known(self._row.tool_call_id, self._task)
        before = await self._begin(known=known) if known or self.once else None
        if before is None:
            return None
        if before.state in _IN_DOUBT:
            await self.park(before.tool_call_id)
        result = result_of(self.journal.serde, before)
        if result is None:
            if self.once:
                await self.park()
            return None
        return Remembered(result=result, duration_ms=before.duration_ms)

    async def keep(self, result: ToolResult) -> bool:
        """Store the result. False when it cannot be written down. Errors as ``ToolJournal.transact``."""
        kind, blob = written(self.journal.serde, result) or (None, None)
        if kind is None and not self.once:
            return False
        ended = replace(
            self._row,
            state=CallState.FINISHED,
            result_type=kind,
            result=blob,
            finished_at=self.journal.clock.now(),
        )
        await self.journal.transact(lambda rows: put_row(rows, ended), write=True)
        return kind is not None

    async def withdraw(self) -> None:
        """The tool has not done anything yet, and will be called again. Errors as ``ToolJournal.transact``."""
        row = self._row
        await self.journal.transact(lambda rows: withdraw_row(rows, row.thread_key, row.tool_call_id), write=True)

    async def park(self, call_id: str | None = None) -> NoReturn:
        """End the attempt, because nobody knows what came of the call, or of the one that it repeats under a new id.

        Raises:
            AttemptStopped: always. LeaseLost, StorageUnavailable: as ``ToolJournal.transact``.
        """
        row, run = self._row, self.journal.run

        async def review(rows: Rows) -> None:
            await put_in_review(
                rows, row.thread_key, call_id or row.tool_call_id, run_id=run.run_id, attempt=run.attempt
            )

        await self.journal.transact(review, write=True)
        self.journal.stop.trip(
            NeedsReview(f"the tool {row.name} was cut off and must not run twice: say whether it took effect")
        )

    async def _begin(self, *, known: bool) -> ToolRow | None:
        watch = self.journal.watch
        look = partial(self._look, known=known)
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                while True:
                    coming = watch.coming()
                    decided, before = await self.journal.transact(look, write=self.once, harmless=not self.once)
                    if decided:
                        return before
                    if watch.over:
                        break
                    await coming.wait()
        except TimeoutError:
            pass
        raise StorageUnavailable(f"the tool {self._row.name} was not run: the state before it is not stored")

    async def _look(self, rows: Rows, *, known: bool) -> tuple[bool, ToolRow | None]:
        row = self._row
        if self.once:
            # Two calls at once must not both take over the same one of an earlier attempt.
            await rows.lock(f"tool calls {row.thread_key}")
        before = await find_row(rows, row.thread_key, row.tool_call_id) if known else None
        if before is not None and _same(before, row):
            return True, before
        if self.once:
            # A note that outlived the state it belongs to would never be found by the call it is about.
            if self._place is not None and not await stands(rows, row.thread_key, self._place):
                return False, None
            if not self.journal.fresh and (lost := await self._lost(rows)) is not None:
                return True, lost
            await put_row(rows, row)
        return True, None

    async def _lost(self, rows: Rows) -> ToolRow | None:
        """The call that this one may repeat under another id, because the model's answer was lost with its state."""
        asked, answered = _calls_in(self._state)
        row, goes_on = self._row, self.journal.run.request.kind is not InputKind.INPUT
        for before in await lost_rows(rows, row, goes_on=goes_on):
            if before.tool_call_id in answered:
                continue
            if before.state in _IN_DOUBT:
                return before
            if row.tool_call_id in asked and before.tool_call_id not in asked and before.args == row.args:
                return await take_over(rows, before, row)
        return None


def _calls_in(state: object) -> tuple[set[str], set[str]]:
    """The ids of the calls that the messages of a ToolNode's state ask for, and of those that they answer."""
    fields = state if isinstance(state, Mapping) else {"": state} if isinstance(state, list) else vars(state)
    values: list[object] = list(fields.values())
    messages = [one for value in values if isinstance(value, list) for one in value]
    asked = {str(call["id"]) for one in messages if isinstance(one, AIMessage) for call in one.tool_calls}
    return asked, {one.tool_call_id for one in messages if isinstance(one, ToolMessage)}


def _same(before: ToolRow, now: ToolRow) -> bool:
    return before.name == now.name and (before.state in _IN_DOUBT or before.args == now.args)
