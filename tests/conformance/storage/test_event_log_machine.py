"""Random lives of one run: appends, flushes at any moment, crashes, drains, followers; then it ends.

What holds: ids are gapless within an attempt, a later attempt names the last event that survived, what was not stored
never comes back under its id, and a follower who comes with any id sees exactly what is behind it.
"""

import asyncio
import tempfile
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from roadworthy.domain.event import AttemptStarted, Event, EventId, RunEnded
from roadworthy.domain.run import Run, RunResult, RunStatus
from roadworthy.ports.event_log import EventWriter
from roadworthy.storage.ending import end
from roadworthy.storage.event_log import SqlEventLog
from roadworthy.storage.queue import SqlRunQueue
from tests.conformance.storage.backends import Templates, open_backend, settled
from tests.conformance.storage.factories import EXPIRED, TickingClock, delta, everything, lease_of, new_run
from tests.conformance.storage.replicas import LOG_KINDS, Logs, RedisLog
from tests.support.valkey import ValkeyServer

AT_ONCE, NEVER = timedelta(0), timedelta(days=1)


class EventLogMachine(RuleBasedStateMachine):
    """``survived``: events of ended attempts that are stored. ``shown``: all events of the present attempt."""

    backend: str
    templates: Templates
    log_kind: str
    url: str

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        opened = open_backend(self.backend, self.templates, Path(self.folder.name))
        self.database = self.runner.run(self.stack.enter_async_context(opened))
        self.queue = SqlRunQueue(self.database, TickingClock(), lease=EXPIRED)
        self.logs = Logs(self.log_kind, self.database, self.url)
        self.survived: list[Event] = []
        self.shown: list[Event] = []
        self.lost: set[EventId] = set()
        self.ended: Run | None = None
        self.followers: list[tuple[int, list[Event], asyncio.Task[None]]] = []
        accepted = self.runner.run(self.queue.accept(new_run(), claim_for="worker", max_pending=0, idempotency=None))
        self.run = accepted.run
        self.log = self.start_process(AT_ONCE)
        self.writer = self.open()

    def teardown(self) -> None:
        if self.ended is None:
            self.end(RunStatus.SUCCESS)
        self.check_everything()
        self.runner.run(self.log.__aexit__(None, None, None))
        self.runner.run(self.stack.aclose())
        self.runner.close()
        self.folder.cleanup()

    # --- processes and attempts -------------------------------------------------------------------------------------

    def start_process(self, linger: timedelta) -> SqlEventLog:
        self.followers = []
        log = self.logs(linger=linger)
        self.runner.run(log.__aenter__())
        return log

    def open(self) -> EventWriter:
        writer = self.runner.run(self.log.open(self.run))
        self.shown = list(self.runner.run(self.log.read(self.run)))[len(self.survived) :]
        assert len(self.shown) == 1
        if self.run.attempt > 1:
            last = str(self.survived[-1].id) if self.survived else None
            assert self.shown[0].body == AttemptStarted(attempt=self.run.attempt, last_valid=last)
        return writer

    def next_attempt(self) -> None:
        claimed = self.runner.run(self.queue.claim(self.run.run_id, worker="worker"))
        assert claimed is not None
        self.run = claimed
        self.writer = self.open()

    # --- the steps --------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.ended is None)
    @rule(texts=st.lists(st.text(max_size=3), min_size=1, max_size=5))
    def append(self, texts: list[str]) -> None:
        self.shown.extend([self.writer.append(delta(text)) for text in texts])
        assert [event.id for event in self.shown] == [
            EventId(1, self.run.attempt, n + 1) for n in range(len(self.shown))
        ]

    @rule(turns=st.integers(1, 5))
    def time_passes(self, turns: int) -> None:
        async def turn() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self.runner.run(turn())

    @precondition(lambda self: self.ended is None)
    @rule(linger=st.sampled_from([AT_ONCE, NEVER]))
    def crash(self, linger: timedelta) -> None:
        """The process dies with its memory, its followers and maybe a flush under way."""
        self.runner.run(self.kill())
        stored = list(self.runner.run(self.logs().read(self.run)))
        kept = stored[len(self.survived) :]
        assert stored == [*self.survived, *self.shown[: len(kept)]]
        self.lost |= {event.id for event in self.shown[len(kept) :]}
        self.survived = stored
        self.log = self.start_process(linger)
        assert self.runner.run(self.queue.reap(self.run, losses=1, progress_mark=None)) is not None
        self.next_attempt()

    async def kill(self) -> None:
        own = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not own]
        await end(tasks)
        if isinstance(self.log, RedisLog):
            await self.log.server.close()
        # What the dead process had handed to the database may still be committed.
        await settled(self.database, self.backend)

    @precondition(lambda self: self.ended is None)
    @rule()
    def drain(self) -> None:
        """The attempt is given back; the same process claims it again."""
        self.runner.run(self.give_back())
        self.survived = [*self.survived, *self.shown]
        self.next_attempt()

    async def give_back(self) -> None:
        events = self.writer.take_unflushed()
        assert await self.queue.release(lease_of(self.run), events=events) is not None
        self.writer.close(None)

    @rule(place=st.integers(0, 999))
    def follow(self, place: int) -> None:
        events = [*self.survived, *self.shown]
        # How many there are is up to the database's threads, and what is drawn must not be.
        behind = place % (len(events) + 1)
        after = None if behind == 0 else events[behind - 1].id
        seen: list[Event] = []

        async def walk() -> None:
            seen.extend(await everything(self.log, self.run, after))

        async def start() -> None:
            task = asyncio.get_running_loop().create_task(walk())
            self.followers.append((behind, seen, task))
            await asyncio.sleep(0)

        self.runner.run(start())

    @precondition(lambda self: self.ended is None)
    @rule(status=st.sampled_from([RunStatus.SUCCESS, RunStatus.ERROR, RunStatus.INTERRUPTED]))
    def end(self, status: RunStatus) -> None:
        events = self.writer.take_unflushed()
        ended = self.runner.run(self.queue.finish(lease_of(self.run), status, RunResult(), events=events))
        assert ended is not None
        self.writer.close(ended)
        self.ended = ended

    # --- what holds at the end --------------------------------------------------------------------------------------

    def check_everything(self) -> None:
        assert self.ended is not None
        n = len(self.shown) + 1
        terminal = Event(id=EventId(1, self.ended.attempt, n), body=RunEnded(status=self.ended.status, error=None))
        whole = [*self.survived, *self.shown, terminal]
        for behind, seen, task in self.followers:
            self.runner.run(asyncio.wait_for(task, 30))
            assert seen == whole[behind:]
        self.followers = []
        assert self.log.held == 0
        elsewhere = self.logs()
        assert not self.lost & {event.id for event in whole}
        for log in (self.log, elsewhere):
            assert self.runner.run(everything(log, self.run)) == whole
            for index, event in enumerate(whole):
                assert self.runner.run(everything(log, self.ended, event.id)) == whole[index + 1 :]
            for lost in self.lost:
                assert self.runner.run(everything(log, self.ended, lost)) == [
                    event for event in whole if event.id > lost
                ]


@pytest.mark.parametrize(("backend", "log_kind"), LOG_KINDS, indirect=True)
def test_any_life_of_a_run_leaves_one_history(
    backend: str, log_kind: str, templates: Templates, valkey: ValkeyServer
) -> None:
    names = {"backend": backend, "templates": templates, "log_kind": log_kind, "url": valkey.url}
    kind = type("Machine", (EventLogMachine,), names)
    run_state_machine_as_test(
        kind,
        settings=settings(
            max_examples=60 if log_kind == "alone" else 25,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
