"""Reading and erasing what is stored about runs, threads and keys. Adapters: repositories in ``storage``.

Every method takes the owner (tenant and user) or the tenant first, or something that carries them (a thread's name, a
run, a new key); what belongs to another does not exist. Exceptions: ``KeyStore.find`` and ``KeyStore.any``, which are
asked before there is a tenant, and ``ThreadStore.unfinished_erasures``, which is asked by the server for itself.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from roadworthy.domain.audit import Actor
from roadworthy.domain.ids import KeyId, RunId, TenantId, ThreadId
from roadworthy.domain.page import Page
from roadworthy.domain.principal import ApiKey, Owner
from roadworthy.domain.run import Run, RunStatus
from roadworthy.domain.thread import Thread, ThreadRef


class RunStore(Protocol):
    """Runs of one user."""

    async def get(self, owner: Owner, run_id: RunId) -> Run:
        """One run.

        Raises:
            NotFound: it does not exist for this owner.
        """
        ...

    async def list_of_thread(self, owner: Owner, thread_id: ThreadId, *, limit: int, cursor: str | None) -> Page[Run]:
        """Runs of a thread, latest first."""
        ...

    async def list_of_tenant(
        self, tenant: TenantId | None, *, status: RunStatus | None, limit: int, cursor: str | None
    ) -> Page[Run]:
        """Runs of a tenant (None: of all, for the operator's CLI), latest first."""
        ...

    async def find_any(self, tenant: TenantId | None, run_id: RunId) -> Run | None:
        """One run whoever owns it, for the operator's CLI."""
        ...


class ThreadStore(Protocol):
    """Threads of one user."""

    async def get(self, ref: ThreadRef) -> Thread:
        """One thread.

        Raises:
            NotFound: it does not exist for this owner.
        """
        ...

    async def list(self, owner: Owner, *, limit: int, cursor: str | None) -> Page[Thread]:
        """Threads, the latest used first."""
        ...

    async def erase(self, ref: ThreadRef, *, unused_since: datetime | None = None) -> bool:
        """Delete a thread with its runs, events and idempotency records; ledger rows stay. False when it was not there,
        or was used at or after ``unused_since``.

        Its name stays taken, by nothing that anybody can see, until ``finish_erasure``: meanwhile its checkpoints can
        be deleted without hitting those of a new thread. True again for a thread in that state. The rows go in several
        short transactions; what a crash leaves of them, ``finish_erasure`` deletes.

        Raises:
            ThreadBusy: a run of it is unfinished. Nothing is deleted.
        """
        ...

    async def finish_erasure(self, ref: ThreadRef) -> None:
        """Free the name of an erased thread. Idempotent; does nothing to a thread that is not erased."""
        ...

    async def unfinished_erasures(self) -> Sequence[ThreadRef]:
        """Erased threads whose names are still taken: a crash came in between."""
        ...


class KeyStore(Protocol):
    """API keys."""

    async def find(self, key_id: KeyId) -> ApiKey | None:
        """One key by its public id, usable or not. The only look-up before a tenant is known."""
        ...

    async def insert(self, key: ApiKey, actor: Actor) -> bool:
        """Add a key. False when its id exists already. Audited with itself, as ``end`` is."""
        ...

    async def insert_first(self, key: ApiKey, actor: Actor) -> bool:
        """Add a key when there is none at all, of any tenant; of several callers at once one does. Else False."""
        ...

    async def list(self, tenant: TenantId | None) -> Sequence[ApiKey]:
        """Keys of a tenant (None: of all, for the operator's CLI), oldest first."""
        ...

    async def end(
        self,
        tenant: TenantId | None,
        key_id: KeyId,
        actor: Actor,
        *,
        revoked_at: datetime | None,
        expires_at: datetime | None,
    ) -> bool:
        """Revoke a key now, or set when it ends. False when there is no such key."""
        ...

    async def replace(self, tenant: TenantId, old: KeyId, new: ApiKey, actor: Actor, *, expires_at: datetime) -> bool:
        """Add a key that takes an old one's place, and end that one, in one transaction.

        What limits the old key limits the new one: rate limits, and budgets with what was spent of them in their
        present periods. False when the new id exists already.
        """
        ...

    async def touch(self, tenant: TenantId, key_id: KeyId, moment: datetime) -> None:
        """Note when a key was last used."""
        ...

    async def any(self) -> bool:
        """Whether a single key exists."""
        ...
