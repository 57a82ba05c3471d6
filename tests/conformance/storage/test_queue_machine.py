"""Random schedules of accept, claim and every ending, against a model that fits on a page.

After each step the stored rows equal the model's; so ordinals are gapless, a thread runs one run at a time in order,
nothing is lost, and the counters that decide quickly whether a thread is free are right.
"""

import asyncio
import tempfile
from collections import defaultdict
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from roadworthy.domain.errors import NotFound, QueueFull, RateLimited, RoadworthyError, ThreadBusy
from roadworthy.domain.ids import ThreadId
from roadworthy.domain.principal import Owner
from roadworthy.domain.run import CancelReason, MultitaskStrategy, Run, RunError, RunResult, RunStatus
from roadworthy.domain.thread import ThreadRef
from roadworthy.ports.queue import IdempotencyRecord
from roadworthy.storage import statements as sql
from roadworthy.storage.queue import SqlRunQueue
from roadworthy.storage.runs import SqlRunStore
from roadworthy.storage.threads import SqlThreadStore
from tests.conformance.storage.backends import Templates, open_backend
from tests.conformance.storage.factories import ALICE, BOB, EXPIRED, STRANGER, TickingClock, lease_of, new_run

MAX_PENDING = 4
SHARE = 2
OWNERS = (ALICE, BOB, STRANGER)
THREADS = ("one", "two")
RESULT = RunResult(response="x", error=RunError(code="c", message="m"))
ENDS = st.sampled_from([status for status in RunStatus if status.final])


class QueueMachine(RuleBasedStateMachine):
    """``runs`` is the model: every run as it must be stored, in order of arrival."""

    backend: str
    templates: Templates

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        opened = open_backend(self.backend, self.templates, Path(self.folder.name))
        self.database = self.runner.run(self.stack.enter_async_context(opened))
        self.queue = SqlRunQueue(self.database, TickingClock(), lease=EXPIRED)
        self.store = SqlRunStore(self.database)
        self.threads = SqlThreadStore(self.database)
        self.runs: list[Run] = []
        self.keys: dict[tuple[Owner, str], tuple[str, str]] = {}
        self.erasing: set[tuple[Owner, str]] = set()

    def teardown(self) -> None:
        self.runner.run(self.stack.aclose())
        self.runner.close()
        self.folder.cleanup()

    # --- the model ----------------------------------------------------------------------------------------------------

    def on(self, owner: Owner, thread: str, *statuses: RunStatus) -> list[Run]:
        return [run for run in self.runs if run.owner == owner and run.thread_id == thread and run.status in statuses]

    def having(self, *statuses: RunStatus) -> list[Run]:
        return [run for run in self.runs if run.status in statuses]

    def startable(self, run: Run) -> bool:
        pending = self.on(run.owner, run.thread_id, RunStatus.PENDING)
        first = min((other.ord for other in pending if other.cancel_requested is None), default=0)
        return first == run.ord and not self.on(run.owner, run.thread_id, RunStatus.RUNNING)

    def refusal(
        self, owner: Owner, thread: str, strategy: MultitaskStrategy, *, busy: bool, waits: bool
    ) -> type[RoadworthyError] | None:
        waiting = self.having(RunStatus.PENDING)
        if (owner, thread) in self.erasing or (busy and strategy is MultitaskStrategy.REJECT):
            return ThreadBusy
        if waits and len(waiting) >= MAX_PENDING:
            return QueueFull
        if waits and sum(run.owner == owner for run in waiting) >= SHARE:
            return RateLimited
        return None

    def becomes(self, old: Run, new: Run | None) -> None:
        assert new is not None
        self.runs[self.runs.index(old)] = new

    def pick(self, data: st.DataObject, *statuses: RunStatus) -> Run:
        return data.draw(st.sampled_from(self.having(*statuses)))

    # --- the steps ----------------------------------------------------------------------------------------------------

    @rule(
        owner=st.sampled_from(OWNERS),
        thread=st.sampled_from(THREADS),
        strategy=st.sampled_from(MultitaskStrategy),
        slot=st.booleans(),
        key=st.sampled_from([None, None, "a", "b"]),
    )
    def accept(self, owner: Owner, thread: str, strategy: MultitaskStrategy, slot: bool, key: str | None) -> None:
        active = self.on(owner, thread, RunStatus.RUNNING)
        busy = bool(active or self.on(owner, thread, RunStatus.PENDING))
        run = new_run(owner, thread, strategy=strategy)
        known = None if key is None else self.keys.get((owner, key))
        accept = self.queue.accept(
            run,
            claim_for="worker" if slot else None,
            max_pending=MAX_PENDING,
            idempotency=None if key is None else IdempotencyRecord(key=key, body_hash="hash"),
        )
        if known is not None:
            replayed = self.runner.run(accept)
            assert replayed.replayed
            assert replayed.run == next(run for run in self.runs if run.run_id == known[0])
            return
        refusal = self.refusal(owner, thread, strategy, busy=busy, waits=busy or not slot)
        if refusal is not None:
            with pytest.raises(refusal):
                self.runner.run(accept)
            return
        accepted = self.runner.run(accept)
        stored = accepted.run
        assert stored.ord == len(self.on(owner, thread, *RunStatus)) + 1
        assert stored.status is (RunStatus.RUNNING if slot and not busy else RunStatus.PENDING)
        assert stored.attempt == (1 if slot and not busy else 0)
        if active and strategy in (MultitaskStrategy.INTERRUPT, MultitaskStrategy.ROLLBACK):
            asked = active[0]
            assert accepted.superseded == asked.run_id
            self.becomes(asked, replace(asked, cancel_requested=asked.cancel_requested or CancelReason.SUPERSEDED))
        else:
            assert accepted.superseded is None
        rolled_back = accepted.superseded if strategy is MultitaskStrategy.ROLLBACK else None
        assert stored.rollback_of == rolled_back
        self.runs.append(stored)
        if key is not None:
            self.keys[owner, key] = (stored.run_id, thread)

    @precondition(lambda self: self.having(RunStatus.PENDING))
    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        run = self.pick(data, RunStatus.PENDING)
        claimed = self.runner.run(self.queue.claim(run.run_id, worker="worker"))
        if not self.startable(run):
            assert claimed is None
            return
        assert claimed is not None
        assert (claimed.status, claimed.attempt) == (RunStatus.RUNNING, run.attempt + 1)
        self.becomes(run, claimed)

    @precondition(lambda self: self.having(RunStatus.RUNNING))
    @rule(data=st.data(), status=ENDS, stale=st.booleans())
    def finish(self, data: st.DataObject, status: RunStatus, stale: bool) -> None:
        run = self.pick(data, RunStatus.RUNNING)
        lease = lease_of(run if not stale else replace(run, attempt=run.attempt - 1))
        ended = self.runner.run(self.queue.finish(lease, status, RESULT, events=()))
        if stale:
            assert ended is None
            return
        assert ended is not None
        assert (ended.status, ended.attempt, ended.result) == (status, run.attempt, RESULT)
        self.becomes(run, ended)

    @precondition(lambda self: self.having(RunStatus.RUNNING))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        run = self.pick(data, RunStatus.RUNNING)
        self.becomes(run, self.runner.run(self.queue.release(lease_of(run))))

    @precondition(lambda self: self.having(RunStatus.RUNNING))
    @rule(data=st.data(), losses=st.integers(0, 3), mark=st.sampled_from([None, "mark"]))
    def reap(self, data: st.DataObject, losses: int, mark: str | None) -> None:
        run = self.pick(data, RunStatus.RUNNING)
        reaped = self.runner.run(self.queue.reap(run, losses=losses, progress_mark=mark))
        assert reaped == replace(run, status=RunStatus.PENDING, losses=losses, progress_mark=mark)
        self.becomes(run, reaped)

    @precondition(lambda self: self.having(RunStatus.RUNNING))
    @rule(data=st.data())
    def end_orphan(self, data: st.DataObject) -> None:
        run = self.pick(data, RunStatus.RUNNING)
        ended = self.runner.run(self.queue.end_orphan(run, RunStatus.ERROR, RESULT))
        assert ended is not None
        assert ended.attempt == run.attempt + 1
        self.becomes(run, ended)

    @precondition(lambda self: self.having(RunStatus.PENDING))
    @rule(data=st.data())
    def end_pending(self, data: st.DataObject) -> None:
        run = self.pick(data, RunStatus.PENDING)
        ended = self.runner.run(self.queue.end_pending(run, RunStatus.CANCELLED, RESULT))
        assert ended is not None
        assert (ended.attempt == 0) == (run.attempt == 0)
        self.becomes(run, ended)

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), reason=st.sampled_from(CancelReason))
    def request_cancel(self, data: st.DataObject, reason: CancelReason) -> None:
        run = self.pick(data, *RunStatus)
        asked = self.runner.run(self.queue.request_cancel(run, reason))
        expected = run if run.status.final else replace(run, cancel_requested=run.cancel_requested or reason)
        assert asked == expected
        self.becomes(run, asked)

    @precondition(lambda self: self.having(*(status for status in RunStatus if status.final)))
    @rule(data=st.data())
    def nothing_moves_an_ended_run(self, data: st.DataObject) -> None:
        run = self.pick(data, *(status for status in RunStatus if status.final))
        for attempt in (
            self.queue.claim(run.run_id, worker="worker"),
            self.queue.finish(lease_of(run), RunStatus.SUCCESS, RESULT, events=()),
            self.queue.release(lease_of(run)),
            self.queue.reap(run, losses=1, progress_mark=None),
            self.queue.end_orphan(run, RunStatus.ERROR, RESULT),
            self.queue.end_pending(run, RunStatus.ERROR, RESULT),
        ):
            assert self.runner.run(attempt) is None

    @rule(owner=st.sampled_from(OWNERS), thread=st.sampled_from(THREADS))
    def erase(self, owner: Owner, thread: str) -> None:
        ref = ThreadRef(owner=owner, thread_id=ThreadId(thread))
        if self.on(owner, thread, RunStatus.PENDING, RunStatus.RUNNING):
            with pytest.raises(ThreadBusy):
                self.runner.run(self.threads.erase(ref))
            return
        mine = self.on(owner, thread, *RunStatus)
        assert self.runner.run(self.threads.erase(ref)) is (bool(mine) or (owner, thread) in self.erasing)
        if mine:
            self.erasing.add((owner, thread))
        self.runs = [run for run in self.runs if run not in mine]
        self.keys = {
            key: (run_id, name) for key, (run_id, name) in self.keys.items() if (key[0], name) != (owner, thread)
        }

    @rule(owner=st.sampled_from(OWNERS), thread=st.sampled_from(THREADS))
    def finish_erasure(self, owner: Owner, thread: str) -> None:
        self.runner.run(self.threads.finish_erasure(ThreadRef(owner=owner, thread_id=ThreadId(thread))))
        self.erasing.discard((owner, thread))

    # --- what always holds --------------------------------------------------------------------------------------------

    @invariant()
    def the_rows_are_the_model(self) -> None:
        page = self.runner.run(self.store.list_of_tenant(None, status=None, limit=10_000, cursor=None))
        assert list(page.items) == self.runs[::-1]
        assert list(self.runner.run(self.queue.orphans())) == self.having(RunStatus.RUNNING)

    @invariant()
    def each_thread_runs_one_run_and_counts_the_others(self) -> None:
        for owner in OWNERS:
            for name in THREADS:
                running = self.on(owner, name, RunStatus.RUNNING)
                assert len(running) <= 1
                ref = ThreadRef(owner=owner, thread_id=ThreadId(name))
                mine = self.on(owner, name, *RunStatus)
                assert [run.ord for run in mine] == list(range(1, len(mine) + 1))
                if not mine:
                    with pytest.raises(NotFound):
                        self.runner.run(self.threads.get(ref))
                    continue
                row = self.runner.run(
                    self.database.read(
                        lambda tx, owner=owner, name=name: tx.one(
                            sql.LOCK_THREAD, tenant=owner.tenant, owner=owner.user, thread_id=name
                        )
                    )
                )
                assert row == (
                    running[0].run_id if running else None,
                    len(self.on(owner, name, RunStatus.PENDING)),
                )

    @invariant()
    def erased_threads_are_known_until_they_are_gone(self) -> None:
        refs = self.runner.run(self.threads.unfinished_erasures())
        assert {(ref.owner, str(ref.thread_id)) for ref in refs} == self.erasing

    @invariant()
    def waiting_is_the_oldest_startable_run_of_each_user(self) -> None:
        oldest: dict[Owner, Run] = {}
        for run in self.having(RunStatus.PENDING):
            if self.startable(run):
                oldest.setdefault(run.owner, run)
        waiting = self.runner.run(self.queue.waiting())
        assert {one.run_id: one.isolated for one in waiting} == {run.run_id: run.losses >= 2 for run in oldest.values()}
        per_user = defaultdict[tuple[str, str], int](int)
        for one in waiting:
            per_user[one.tenant, one.user] += 1
        assert all(count == 1 for count in per_user.values())


def test_any_schedule_leaves_the_rows_equal_to_the_model(backend: str, templates: Templates) -> None:
    kind = type("Machine", (QueueMachine,), {"backend": backend, "templates": templates})
    run_state_machine_as_test(
        kind,
        settings=settings(
            max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )
