"""What is kept how long, and what is kept of one user. Adapters: ``storage/retention.py`` and ``storage/users.py``.

The pruner serves every tenant, so it is asked for no owner; what is told about a user begins with the owner. Every
change is a short transaction over a bounded number of rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from roadworthy.domain.audit import Actor
from roadworthy.domain.ids import AgentName, KeyId, RunId, ThreadId
from roadworthy.domain.json import JsonObject
from roadworthy.domain.principal import Owner
from roadworthy.domain.run import Run
from roadworthy.domain.thread import ThreadRef
from roadworthy.domain.usage import ModelCall


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedThread:
    """A thread that nothing runs on. ``next_ord`` belongs to its next run; whole outputs begin at ``outputs_from``."""

    ref: ThreadRef
    used_at: datetime
    next_ord: int
    outputs_from: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one short transaction has removed, and whether there is more to do."""

    removed: int
    more: bool


class RetentionStore(Protocol):
    """What the pruner goes through. See the module."""

    async def unused_threads(self, before: datetime, *, limit: int) -> Sequence[ThreadRef]:
        """Threads without an unfinished run whose last use was before a moment, the oldest first."""
        ...

    async def prune_events(self, before: datetime) -> Batch:
        """Delete events of runs that ended before a moment, of the oldest ends first.

        Each run keeps its first event and the place of its last one: a replay begins and ends with the ids that it
        always had, and nothing is between them.
        """
        ...

    async def used_threads(self, since: datetime, after: UsedThread | None, *, limit: int) -> Sequence[UsedThread]:
        """Threads used at or after a moment that no run has now, nor waits for; in the order of their use, behind
        ``after``.
        """
        ...

    async def trim_outputs(self, thread: UsedThread, *, keep: int, before: datetime) -> tuple[Batch, UsedThread]:
        """Set ``output`` to null in some of the runs that are older than the thread's latest ``keep``, up to the first
        one that ended after ``before``. Also the thread as it is then. Does nothing while a run is under way.
        """
        ...

    async def idle(self, ref: ThreadRef) -> bool:
        """Whether the thread is there and nothing runs on it at this moment."""
        ...

    async def visited_until(self) -> datetime | None:
        """What ``note_visited`` has stored."""
        ...

    async def note_visited(self, moment: datetime) -> None:
        """Remember, across restarts, that every thread used up to a moment was looked at."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOnRecord:
    """A row of the ledger. Its run and its thread may be gone."""

    run_id: RunId
    thread_id: ThreadId
    agent: AgentName
    key_id: KeyId | None
    call: ModelCall


@dataclass(frozen=True, slots=True, kw_only=True)
class SentKey:
    """An ``Idempotency-Key`` that a user's client has sent, and the run that it stands for."""

    key: str
    run_id: RunId
    thread_id: ThreadId
    created_at: datetime


class UserRecords(Protocol):
    """What is kept of a user beside threads, runs and API keys."""

    async def unfinished_runs(self, owner: Owner) -> Sequence[Run]:
        """Pending and running runs, in the order of their arrival."""
        ...

    async def count_runs(self, owner: Owner) -> int:
        """All of them."""
        ...

    async def sent_keys(self, owner: Owner, after: SentKey | None, *, limit: int) -> Sequence[SentKey]:
        """Idempotency records, in the order of their keys, behind ``after``."""
        ...

    async def calls(self, owner: Owner, after: CallOnRecord | None, *, limit: int) -> Sequence[CallOnRecord]:
        """The user's rows of the ledger, oldest first, behind ``after``."""
        ...

    async def note(self, owner: Owner, action: str, actor: Actor, after: JsonObject) -> None:
        """Write into the audit log what somebody does with the user's data. ``after`` holds none of it."""
        ...
