"""One transaction: store a new run and decide whether it starts, waits or is refused. Called by ``queue.py``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from roadworthy.domain.errors import AgentMismatch, Conflict, IdempotencyMismatch, QueueFull, RateLimited, ThreadBusy
from roadworthy.domain.fleet import FleetCaps
from roadworthy.domain.ids import RunId
from roadworthy.domain.principal import Owner
from roadworthy.domain.rate_limit import AppliedLimit, RateCaller, RateScope
from roadworthy.domain.rate_status import RateStatus
from roadworthy.domain.run import CancelReason, MultitaskStrategy, Run, RunStatus
from roadworthy.ports.queue import Accepted, IdempotencyRecord
from roadworthy.storage import locks, policy_statements
from roadworthy.storage import statements as sql
from roadworthy.storage.fleet_caps import check_caps
from roadworthy.storage.rows import micros, run_from, run_params
from roadworthy.storage.tables import ERASING
from roadworthy.storage.transaction import Statement, Transaction

# When to try again, for who finds no room.
_LATER = timedelta(seconds=5)
# A limit of runs at once has no window.
_AT_ONCE = timedelta(0)
_UNFINISHED: Mapping[RateScope, Statement] = {
    RateScope.KEY: policy_statements.UNFINISHED_OF_KEY,
    RateScope.USER: policy_statements.UNFINISHED_OF_USER,
    RateScope.TENANT: policy_statements.UNFINISHED_OF_TENANT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """The unit of work, with what it needs to know. See ``ports/queue.py`` for its rules.

    ``lease``: of a run that starts, in microseconds.
    """

    run: Run
    claim_for: str | None
    max_pending: int
    idempotency: IdempotencyRecord | None
    at_once: Sequence[AppliedLimit]
    now: datetime
    lease: int
    caps: FleetCaps

    def __call__(self, tx: Transaction) -> Accepted:
        """Do it. A refusal raises, which undoes everything; so does ``Capped``: the run may only wait."""
        known = self._known(tx)
        if known is not None:
            return Accepted(run=known, replayed=True)
        next_ord, active, pending, agent = self._enter_thread(tx)
        claimed = active == self.run.run_id
        replaced = None if claimed or active is None or not self._supersedes else RunId(active)
        self._check_at_once(tx, replaced)
        if agent != self.run.agent:
            raise AgentMismatch(f"the thread belongs to the agent {agent}")
        if self.run.ord not in (0, next_ord - 1):
            raise Conflict(f"a later run, {self._latest(tx, next_ord - 1)}, has changed the thread since")
        if not claimed:
            self._check_policy(tx, busy=active is not None or pending > 1)
        run = replace(self.run, ord=next_ord - 1)
        if claimed:
            run = replace(run, status=RunStatus.RUNNING, attempt=1, started_at=self.now)
        if replaced is not None:
            self._supersede(tx, replaced)
            if run.request.multitask_strategy is MultitaskStrategy.ROLLBACK:
                run = replace(run, rollback_of=replaced)
        self._store(tx, run)
        return Accepted(run=run, superseded=replaced)

    def _store(self, tx: Transaction, run: Run) -> None:
        if run.status is RunStatus.PENDING:
            tx.run(sql.INSERT_RUN, **run_params(run, worker=None))
            return
        tx.run(sql.INSERT_RUN, **run_params(run, worker=self.claim_for, lease=self.lease))
        check_caps(tx, self.caps, run.owner.tenant, run.agent)

    @property
    def _supersedes(self) -> bool:
        """Whether it asks the thread's active run to stop."""
        return self.run.request.multitask_strategy in (MultitaskStrategy.INTERRUPT, MultitaskStrategy.ROLLBACK)

    def _latest(self, tx: Transaction, before: int) -> str:
        owner = self.run.owner
        row = tx.one(
            sql.RUNS_OF_THREAD,
            tenant=owner.tenant,
            owner=owner.user,
            thread_id=self.run.thread_id,
            before=before,
            limit=1,
        )
        return "which is gone" if row is None else run_from(row).run_id

    def _known(self, tx: Transaction) -> Run | None:
        """The run that was stored under the key; None when there is no key, or it is new, and now taken."""
        owner, record = self.run.owner, self.idempotency
        if record is None:
            return None
        inserted = tx.run(
            sql.INSERT_IDEMPOTENCY,
            tenant=owner.tenant,
            owner=owner.user,
            key=record.key,
            body_hash=record.body_hash,
            run_id=self.run.run_id,
            thread_id=self.run.thread_id,
            created_at=micros(self.now),
        )
        if inserted:
            return None
        return known_run(tx, owner, record)

    def _check_at_once(self, tx: Transaction, replaced: RunId | None) -> None:
        """Count what is there, so that no counter can leak: a run whose worker died counts until it is reaped.

        The run that this one replaces does not count.
        """
        if not self.at_once:
            return
        tx.lock(*(locks.at_once(self.run.owner.tenant, one) for one in self.at_once))
        leaves = None if replaced is None else self._caller_of(tx, replaced)
        statuses = [self._status(tx, one, leaves) for one in self.at_once]
        full = next((status for status in statuses if status.remaining <= 0), None)
        if full is not None:
            raise RateLimited(
                f"the limit {full.policy} is reached: {full.limit} unfinished at once",
                retry_after=_LATER,
                rates=statuses,
            )

    def _status(self, tx: Transaction, one: AppliedLimit, leaves: RateCaller | None) -> RateStatus:
        rule = one.limit
        (unfinished,) = tx.one(_UNFINISHED[rule.scope], tenant=self.run.owner.tenant, subject=one.subject) or (0,)
        if leaves is not None and leaves.subject(rule.scope) == one.subject:
            unfinished -= 1
        remaining = max(0, rule.limit - unfinished)
        return RateStatus(
            policy=rule.policy,
            limit=rule.limit,
            window=_AT_ONCE,
            remaining=remaining,
            resets_in=_AT_ONCE if remaining else _LATER,
        )

    def _caller_of(self, tx: Transaction, run_id: RunId) -> RateCaller | None:
        owner = self.run.owner
        row = tx.one(sql.GET_RUN, tenant=owner.tenant, owner=owner.user, run_id=run_id)
        if row is None:
            return None
        return RateCaller(tenant=owner.tenant, user=owner.user, key_id=run_from(row).key_id)

    def _enter_thread(self, tx: Transaction) -> tuple[int, str | None, int, str]:
        """Next ordinal, active run, pending runs (a new pending one included) and agent of the thread."""
        run, claim = self.run, self.claim_for is not None
        row = tx.one(
            sql.ENTER_THREAD,
            tenant=run.owner.tenant,
            owner=run.owner.user,
            thread_id=run.thread_id,
            agent=run.agent,
            active_run=run.run_id if claim else None,
            pending=0 if claim else 1,
            created_at=micros(self.now),
            updated_at=micros(self.now),
        )
        if row is None:
            raise AssertionError("an upsert returns its row")
        next_ord, active, pending, agent = row
        if active == ERASING:
            raise ThreadBusy("the thread is being erased")
        return next_ord, active, pending, agent

    def _check_policy(self, tx: Transaction, *, busy: bool) -> None:
        if busy and self.run.request.multitask_strategy is MultitaskStrategy.REJECT:
            raise ThreadBusy("the thread has an unfinished run")
        owner = self.run.owner
        waiting, own = tx.one(sql.COUNT_PENDING_OF, tenant=owner.tenant, owner=owner.user) or (0, 0)
        if waiting >= self.max_pending:
            raise QueueFull("too many runs are waiting", retry_after=_LATER)
        if own >= max(1, self.max_pending // 2):
            raise RateLimited("too many of your runs are waiting", retry_after=_LATER)

    def _supersede(self, tx: Transaction, active: RunId) -> None:
        owner = self.run.owner
        tx.run(
            sql.REQUEST_CANCEL,
            tenant=owner.tenant,
            owner=owner.user,
            run_id=active,
            reason=CancelReason.SUPERSEDED.value,
        )


def known_run(tx: Transaction, owner: Owner, record: IdempotencyRecord) -> Run | None:
    """The run that is stored under an idempotency key.

    Raises:
        IdempotencyMismatch: the key is known with another body.
    """
    found = tx.one(sql.GET_IDEMPOTENCY, tenant=owner.tenant, owner=owner.user, key=record.key)
    if found is None:
        return None
    body_hash, run_id = found
    if body_hash != record.body_hash:
        raise IdempotencyMismatch("the idempotency key was used with another body")
    row = tx.one(sql.GET_RUN, tenant=owner.tenant, owner=owner.user, run_id=run_id)
    return None if row is None else run_from(row)
