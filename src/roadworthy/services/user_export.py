"""All that is kept of one user, part by part. For admins, by ``protocols/admin`` and ``cli/users.py``."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeAlias

from roadworthy.domain.audit import Actor
from roadworthy.domain.errors import AgentFailed
from roadworthy.domain.event import Event
from roadworthy.domain.ids import AgentName, UserId
from roadworthy.domain.json import JsonObject
from roadworthy.domain.principal import ApiKey, Owner, Principal, Scope
from roadworthy.domain.run import Run
from roadworthy.domain.thread import Thread, ThreadRef, ThreadState
from roadworthy.ports.clock import Clock
from roadworthy.ports.event_log import EventLog
from roadworthy.ports.retention import CallOnRecord, SentKey, UserRecords
from roadworthy.ports.store import RunStore, ThreadStore
from roadworthy.services.keys import Keys

_PAGE = 100


class UserState(Protocol):
    """The part of ``ports.runtime.AgentRuntime`` that is needed here."""

    async def thread_state(self, agent: AgentName, ref: ThreadRef) -> ThreadState:
        """See ``AgentRuntime.thread_state``."""
        ...

    async def export_items(self, owner: Owner) -> Sequence[JsonObject]:
        """See ``AgentRuntime.export_items``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportBegin:
    """Whose data follow. ``states``: whether the states of threads are among them."""

    owner: Owner
    at: datetime
    states: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedThread:
    """A thread; its runs follow. ``state`` is None where nobody could read it; ``unreadable``: its agent failed to."""

    thread: Thread
    state: ThreadState | None
    unreadable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedRun:
    """A run with all events that are kept of it."""

    run: Run
    events: Sequence[Event]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedItem:
    """What an agent keeps in its store."""

    item: JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportEnd:
    """The last part: without it, an export was cut off. ``counts``: parts by their kind."""

    counts: Mapping[str, int]


Part: TypeAlias = (
    ExportBegin | ApiKey | ExportedThread | ExportedRun | SentKey | ExportedItem | CallOnRecord | ExportEnd
)
_KINDS: Mapping[type[Part], str] = {
    ApiKey: "keys",
    ExportedThread: "threads",
    ExportedRun: "runs",
    SentKey: "idempotency_keys",
    ExportedItem: "items",
    CallOnRecord: "model_calls",
}


class UserExports:
    """``states`` False: the runtime has no agents, so nobody can read the states of threads."""

    def __init__(
        self,
        *,
        records: UserRecords,
        threads: ThreadStore,
        runs: RunStore,
        log: EventLog,
        keys: Keys,
        runtime: UserState,
        clock: Clock,
        states: bool = True,
    ) -> None:
        self._records = records
        self._threads = threads
        self._runs = runs
        self._log = log
        self._keys = keys
        self._runtime = runtime
        self._clock = clock
        self._states = states

    async def begin(self, principal: Principal, user: UserId, actor: Actor) -> AsyncGenerator[Part]:
        """Everything of a user of the caller's tenant, part by part. Close it when leaving it early.

        Raises:
            PermissionDenied: the key lacks the scope ``admin``.
            StorageUnavailable: nothing was handed out.
        """
        principal.require(Scope.ADMIN)
        return await self.begin_for(Owner(tenant=principal.owner.tenant, user=user), actor)

    async def begin_for(self, owner: Owner, actor: Actor) -> AsyncGenerator[Part]:
        """The same for an operator."""
        await self._records.note(owner, "user.export", actor, {"user": owner.user})
        return self._parts(owner)

    async def _parts(self, owner: Owner) -> AsyncGenerator[Part]:
        counts = dict.fromkeys(_KINDS.values(), 0)
        yield ExportBegin(owner=owner, at=self._clock.now(), states=self._states)
        for source in (self._own_keys, self._own_threads, self._sent_keys, self._items, self._calls):
            async for part in source(owner):
                counts[_KINDS[type(part)]] += 1
                yield part
        yield ExportEnd(counts=counts)

    async def _own_keys(self, owner: Owner) -> AsyncGenerator[Part]:
        for key in await self._keys.list(owner.tenant):
            if key.owner == owner:
                yield key

    async def _own_threads(self, owner: Owner) -> AsyncGenerator[Part]:
        cursor: str | None = None
        while True:
            page = await self._threads.list(owner, limit=_PAGE, cursor=cursor)
            for thread in page.items:
                yield await self._with_state(thread)
                async for run in self._own_runs(thread):
                    yield run
            if (cursor := page.cursor) is None:
                return

    async def _with_state(self, thread: Thread) -> ExportedThread:
        if not self._states:
            return ExportedThread(thread=thread, state=None)
        try:
            state = await self._runtime.thread_state(thread.agent, thread.ref)
        except AgentFailed:  # all that is kept beside it is told anyway
            return ExportedThread(thread=thread, state=None, unreadable=True)
        return ExportedThread(thread=thread, state=state)

    async def _own_runs(self, thread: Thread) -> AsyncGenerator[Part]:
        cursor: str | None = None
        while True:
            page = await self._runs.list_of_thread(thread.ref.owner, thread.ref.thread_id, limit=_PAGE, cursor=cursor)
            for run in page.items:
                yield ExportedRun(run=run, events=await self._log.read(run))
            if (cursor := page.cursor) is None:
                return

    async def _sent_keys(self, owner: Owner) -> AsyncGenerator[Part]:
        last: SentKey | None = None
        while page := await self._records.sent_keys(owner, last, limit=_PAGE):
            for key in page:
                yield key
            last = page[-1]

    async def _items(self, owner: Owner) -> AsyncGenerator[Part]:
        for item in await self._runtime.export_items(owner):
            yield ExportedItem(item=item)

    async def _calls(self, owner: Owner) -> AsyncGenerator[Part]:
        last: CallOnRecord | None = None
        while page := await self._records.calls(owner, last, limit=_PAGE):
            for call in page:
                yield call
            last = page[-1]
