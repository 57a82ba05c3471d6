"""Who sends runs and follows them: clients that lose answers, ask again, and come back at another process.

They live outside of the processes; what of a request lives inside dies with the process.
"""

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import timedelta

from roadworthy.domain.errors import Draining, NotFound, QueueFull, RateLimited, StorageUnavailable, ThreadBusy
from roadworthy.domain.event import Event, RunEnded
from roadworthy.domain.ids import RunId, TenantId, ThreadId, UserId
from roadworthy.domain.principal import Owner
from roadworthy.domain.run import CancelReason, InputKind, MultitaskStrategy, Run, RunRequest, RunStatus
from roadworthy.ports.queue import IdempotencyRecord
from roadworthy.runtimes.scripted import DEFAULT_AGENT
from tests.fault.simulation.process import Process
from tests.fault.simulation.world import World

# A tenant with a budget, whose calls hold money, and one without.
PAYING, FREE = TenantId("paying"), TenantId("free")
_PATIENCE = 15.0


@dataclass(slots=True, eq=False)
class Order:
    """What a client wants once, however often it has to ask."""

    owner: Owner
    thread: str
    strategy: MultitaskStrategy
    timeout: timedelta
    key: str | None
    sent: list[RunId] = field(default_factory=list[RunId])
    answers: list[Run] = field(default_factory=list[Run])
    refused: str | None = None
    given_up: bool = False

    @property
    def open(self) -> bool:
        """Whether the client still tries."""
        return not (self.answers or self.refused or self.given_up)


@dataclass(slots=True, eq=False)
class Follower:
    """What a client was shown of a run, over all of its connections."""

    run: Run
    shown: list[Event] = field(default_factory=list[Event])
    process: Process | None = None
    task: "asyncio.Task[None] | None" = None

    @property
    def ended(self) -> bool:
        """Whether it has seen the end."""
        return bool(self.shown) and isinstance(self.shown[-1].body, RunEnded)


class Clients:
    """All of them. ``fleet``: the processes, those that are gone included."""

    def __init__(self, world: World, fleet: Sequence[Process]) -> None:
        self.orders: list[Order] = []
        self.followers: list[Follower] = []
        self.surprises: list[str] = []
        self._world = world
        self._fleet = fleet
        self._numbers = itertools.count(1)

    def rush(self, tenant: TenantId, thread: str) -> None:
        """Somebody wants a run of a certain thread, right now."""
        order = Order(
            owner=Owner(tenant=tenant, user=UserId("ann")),
            thread=thread,
            strategy=MultitaskStrategy.ENQUEUE,
            timeout=timedelta(minutes=2),
            key=f"k{len(self.orders)}",
        )
        self.orders.append(order)
        self._send(order)

    def order(self) -> None:
        """Somebody wants a run."""
        chance = self._world.chance
        if self.orders and chance.random() < 0.15:
            known = chance.choice(self.orders)
            if known.key is not None:
                self._send(known)  # the client does not know any more that it has asked
                return
        strategies = [*[MultitaskStrategy.ENQUEUE] * 5, *MultitaskStrategy]
        order = Order(
            owner=Owner(tenant=chance.choice([PAYING, FREE]), user=UserId("ann")),
            thread=f"t{chance.randint(1, 3)}",
            strategy=chance.choice(strategies),
            timeout=timedelta(seconds=chance.choice([5, 120, 120, 120])),
            key=f"k{len(self.orders)}" if chance.random() < 0.6 else None,
        )
        self.orders.append(order)
        self._send(order)

    def cancel(self) -> None:
        """Somebody wants a run no more."""
        accepted = [order.answers[0] for order in self.orders if order.answers]
        serving = self._serving()
        if not accepted or not serving:
            return
        run, process = self._world.chance.choice(accepted[-4:]), self._world.chance.choice(serving)
        self._world.tell(f"cancel {run.run_id} at {process.name}")
        process.start(self._cancel(process, run))

    def connect(self) -> None:
        """Every follower whose connection is gone gets another one."""
        for follower in self.followers:
            broken = follower.process is None or not follower.process.awake
            if follower.ended or not (broken or follower.task is None or follower.task.done()):
                continue
            if serving := self._serving():
                follower.process = self._world.chance.choice(serving)
                follower.task = follower.process.start(self._follow(follower, follower.process))

    def _serving(self) -> list[Process]:
        return [one for one in self._fleet if one.serves]

    def _send(self, order: Order) -> None:
        serving = self._serving()
        if not serving:
            self._world.after(0.5, lambda: self._send(order))
            return
        process = self._world.chance.choice(serving)
        run_id = RunId(f"r{next(self._numbers)}")
        order.sent.append(run_id)
        self._world.tell(
            f"submit {run_id} to {process.name}: {order.owner.tenant}/{order.thread} {order.strategy} {order.key or ''}"
        )
        process.start(self._submit(order, process, run_id))

        def look() -> None:
            if order.open and order.sent[-1] == run_id:
                self._again(order, safe=False, why="no answer")

        self._world.after(_PATIENCE, look)

    def _again(self, order: Order, *, safe: bool, why: str) -> None:
        """``safe``: nothing was stored for sure, so that asking again is right without a key too."""
        if not order.open:
            return
        if safe or order.key is not None:
            self._world.after(self._world.chance.uniform(0.2, 2), lambda: self._send(order))
        else:
            self._world.tell(f"given up after {order.sent[-1]}: {why}")
            order.given_up = True

    async def _submit(self, order: Order, process: Process, run_id: RunId) -> None:
        assert process.parts is not None
        now = process.parts.around.clock.now()
        run = Run(
            run_id=run_id,
            owner=order.owner,
            thread_id=ThreadId(order.thread),
            ord=0,
            agent=DEFAULT_AGENT.name,
            request=RunRequest(
                kind=InputKind.INPUT,
                payload={"messages": [{"role": "user", "id": f"m-{run_id}", "content": "hello"}]},
                multitask_strategy=order.strategy,
            ),
            request_id="request",
            key_id=None,
            status=RunStatus.PENDING,
            created_at=now,
            deadline_at=now + order.timeout,
        )
        record = None if order.key is None else IdempotencyRecord(key=order.key, body_hash="hash")
        try:
            accepted = await process.parts.worker.submit(run, idempotency=record)
        except Draining:
            self._again(order, safe=True, why="draining")
        except StorageUnavailable as error:
            self._again(order, safe=False, why=error.message)
        except (ThreadBusy, QueueFull, RateLimited) as error:
            self._world.tell(f"refused {run_id}: {error.code}")
            order.refused = order.refused or error.code
        except Exception as error:  # noqa: BLE001 -- worker loop: told at the end
            self.surprises.append(f"submit of {run_id}: {error!r}")
        else:
            again = " again" if accepted.replayed else ""
            self._world.tell(f"accepted {accepted.run.run_id}{again}: {accepted.run.status}")
            if not order.answers and self._world.chance.random() < 0.5:
                self.followers.append(Follower(accepted.run))
            order.answers.append(accepted.run)

    async def _cancel(self, process: Process, run: Run) -> None:
        assert process.parts is not None
        try:
            await process.parts.worker.stop(run, CancelReason.REQUESTED)
        except StorageUnavailable:
            return
        except Exception as error:  # noqa: BLE001 -- worker loop: told at the end
            self.surprises.append(f"cancel of {run.run_id}: {error!r}")

    async def _follow(self, follower: Follower, process: Process) -> None:
        assert process.parts is not None
        after = follower.shown[-1].id if follower.shown else None
        run = follower.run
        try:
            row = await process.parts.store.get(run.owner, run.run_id)
            async with aclosing(process.parts.log.follow(row, after=after)) as batches:
                async for batch in batches:
                    if follower.task is not asyncio.current_task():
                        return
                    follower.shown.extend(batch)
        except StorageUnavailable:
            return
        except NotFound as error:
            self.surprises.append(f"following {run.run_id}: {error!r}")
