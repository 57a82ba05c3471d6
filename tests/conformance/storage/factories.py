"""Runs, events and a clock for storage tests."""

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

from roadworthy.domain.audit import Actor
from roadworthy.domain.event import ContentDelta, Event, EventId
from roadworthy.domain.ids import AgentName, RunId, TenantId, ThreadId, UserId
from roadworthy.domain.lease import Lease
from roadworthy.domain.principal import Owner
from roadworthy.domain.run import InputKind, MultitaskStrategy, Run, RunRequest, RunStatus
from roadworthy.ports.event_log import EventLog

ALICE = Owner(tenant=TenantId("acme"), user=UserId("alice"))
BOB = Owner(tenant=TenantId("acme"), user=UserId("bob"))
# The same user name in another tenant is another user.
STRANGER = Owner(tenant=TenantId("other"), user=UserId("alice"))
OPERATOR = Actor(name="cli:root", request_id="request")
START = datetime(2030, 1, 1, tzinfo=UTC)
# Of a queue whose workers die as soon as they have claimed.
EXPIRED = timedelta(0)


class TickingClock:
    """A clock that moves one millisecond on every look."""

    def __init__(self) -> None:
        self._now = START

    def now(self) -> datetime:
        self._now += timedelta(milliseconds=1)
        return self._now

    def monotonic(self) -> float:
        return time.monotonic()


def new_run(
    owner: Owner = ALICE,
    thread: str = "thread",
    *,
    agent: str = "demo",
    strategy: MultitaskStrategy = MultitaskStrategy.ENQUEUE,
    deadline_at: datetime = START + timedelta(hours=1),
) -> Run:
    return Run(
        run_id=RunId(uuid.uuid4().hex),
        owner=owner,
        thread_id=ThreadId(thread),
        ord=0,
        agent=AgentName(agent),
        request=RunRequest(
            kind=InputKind.INPUT,
            payload={"messages": [{"role": "user", "content": "grüß dich \U0001f600"}]},
            multitask_strategy=strategy,
        ),
        request_id="request",
        key_id=None,
        status=RunStatus.PENDING,
        created_at=START,
        deadline_at=deadline_at,
    )


def lease_of(run: Run) -> Lease:
    return Lease(run_id=run.run_id, owner=run.owner, attempt=run.attempt, worker="worker")


def delta(text: str) -> ContentDelta:
    return ContentDelta(message_id="message", text=text, node="model")


async def everything(log: EventLog, run: Run, after: EventId | None = None) -> Sequence[Event]:
    """What a follower sees until its stream ends."""
    async with aclosing(log.follow(run, after=after)) as batches:
        return [event async for batch in batches for event in batch]


def ids(events: Sequence[Event]) -> list[str]:
    return [str(event.id) for event in events]


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something has happened."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 -- what is waited for has no event of its own
            await asyncio.sleep(0)
