"""Threads as their owner sees them: list, read with messages and runs, erase."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime

from roadworthy.domain.errors import InvalidRequest, NotFound, ThreadBusy
from roadworthy.domain.ids import parse_thread_id
from roadworthy.domain.json import JsonValue
from roadworthy.domain.page import Page
from roadworthy.domain.principal import Principal, Scope
from roadworthy.domain.run import Run
from roadworthy.domain.thread import Message, Thread, ThreadRef
from roadworthy.ports.runtime import AgentRuntime
from roadworthy.ports.store import RunStore, ThreadStore

RUNS_SHOWN = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadView:
    """A thread with what it holds. ``runs``: the latest 50, latest first."""

    thread: Thread
    messages: tuple[Message, ...]
    values: JsonValue
    runs: Sequence[Run]


class Threads:
    """See the module."""

    def __init__(self, *, threads: ThreadStore, runs: RunStore, runtime: AgentRuntime) -> None:
        self._threads = threads
        self._runs = runs
        self._runtime = runtime
        self._erasing: set[ThreadRef] = set()

    async def list(self, principal: Principal, *, limit: int, cursor: str | None) -> Page[Thread]:
        """Own threads, the latest used first.

        Raises:
            PermissionDenied: the key may not read.
            InvalidRequest: the cursor is none of ours.
        """
        principal.require(Scope.RUNS_READ)
        return await self._threads.list(principal.owner, limit=limit, cursor=cursor)

    async def get(self, principal: Principal, thread_id: str) -> ThreadView:
        """One own thread.

        Raises:
            PermissionDenied: the key may not read.
            NotFound: there is no such thread for this caller.
        """
        principal.require(Scope.RUNS_READ)
        thread = await self._threads.get(_ref(principal, thread_id))
        state = await self._runtime.thread_state(thread.agent, thread.ref)
        runs = await self._runs.list_of_thread(principal.owner, thread.ref.thread_id, limit=RUNS_SHOWN, cursor=None)
        return ThreadView(thread=thread, messages=state.messages, values=state.values, runs=runs.items)

    async def erase(self, principal: Principal, thread_id: str) -> None:
        """Delete an own thread with its checkpoints, runs and events. Ledger rows stay, they hold no content.

        Raises:
            PermissionDenied: the key may not write.
            NotFound: there is no such thread for this caller.
            ThreadBusy: a run of it is unfinished, and nothing was deleted; or it is being erased already.
        """
        principal.require(Scope.RUNS_WRITE)
        if not await self.remove(_ref(principal, thread_id)):
            raise NotFound("there is no such thread")

    async def remove(self, ref: ThreadRef, *, unused_since: datetime | None = None) -> bool:
        """The same for who may do so with any thread. False when it is not there, or was used at or after
        ``unused_since``.

        Raises:
            ThreadBusy: as ``erase``.
        """
        with self._alone(ref):
            if not await self._threads.erase(ref, unused_since=unused_since):
                return False
            await _erase_state(self._threads, self._runtime, ref)
            return True

    async def remove_halves(self) -> None:
        """Finish erasures that failed in between and were not asked for again."""
        for ref in await self._threads.unfinished_erasures():
            with suppress(ThreadBusy), self._alone(ref):
                # Another look, now that nobody else does it: it may be finished, and the name a new thread's.
                if ref in await self._threads.unfinished_erasures():
                    await _erase_state(self._threads, self._runtime, ref)

    @contextmanager
    def _alone(self, ref: ThreadRef) -> Generator[None]:
        """One at a time: a second one might be late, and hit what a new thread of this name has stored since."""
        if ref in self._erasing:
            raise ThreadBusy("the thread is being erased")
        self._erasing.add(ref)
        try:
            yield
        finally:
            self._erasing.discard(ref)


async def finish_erasures(threads: ThreadStore, runtime: AgentRuntime) -> None:
    """Finish what a crash has cut off. At start, before anybody else wants those threads.

    Raises:
        StorageUnavailable: a database does not answer.
    """
    for ref in await threads.unfinished_erasures():
        await _erase_state(threads, runtime, ref)


async def _erase_state(threads: ThreadStore, runtime: AgentRuntime, ref: ThreadRef) -> None:
    """The second half: no transaction spans rows and checkpoints, so the thread's name stays taken in between."""
    await runtime.erase_thread(ref)
    await threads.finish_erasure(ref)


def _ref(principal: Principal, thread_id: str) -> ThreadRef:
    try:
        return ThreadRef(owner=principal.owner, thread_id=parse_thread_id(thread_id))
    except InvalidRequest:
        raise NotFound("there is no such thread") from None
