"""The services behind the web side, in memory and moved by the test: runs end when it says so."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from roadworthy.domain.agent import Agent
from roadworthy.domain.errors import (
    Conflict,
    Draining,
    IdempotencyMismatch,
    NotFound,
    ThreadBusy,
    Unauthenticated,
)
from roadworthy.domain.event import Event, EventId, RunEnded, RunEvent, RunStarted
from roadworthy.domain.ids import AgentName, RunId, TenantId, ThreadId, UserId, new_id
from roadworthy.domain.json import JsonValue
from roadworthy.domain.page import Page
from roadworthy.domain.principal import USER_SCOPES, Owner, Principal, Scope
from roadworthy.domain.rate_status import RateStatus
from roadworthy.domain.review import Resolution, ToolReview
from roadworthy.domain.run import (
    DisconnectPolicy,
    InputKind,
    Run,
    RunError,
    RunRequest,
    RunResult,
    RunStatus,
)
from roadworthy.domain.thread import Message, Thread, ThreadRef
from roadworthy.domain.usage import ModelCall
from roadworthy.http.deps import Services
from roadworthy.ports.queue import Accepted, IdempotencyRecord
from roadworthy.services.agents import Agents
from roadworthy.services.identity import Identity
from roadworthy.services.keys import Keys
from roadworthy.services.readiness import Problem, Readiness
from roadworthy.services.runs import CreateRun, Runs
from roadworthy.services.streams import Streams
from roadworthy.services.threads import Threads, ThreadView
from tests.support.web.money_fakes import FakeUsage, NoAudit, NoBudgets, NoLimits
from tests.support.web.user_fakes import NoUserErasures, NoUserExports

MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ALICE = Owner(tenant=TenantId("default"), user=UserId("alice"))
KEY = "rw_live_alice"
BACKEND_KEY = "rw_live_backend"
ON_BEHALF_KEY = "rw_live_on_behalf"
DEMO = Agent(name=AgentName("demo"), description="answers", accepts_message=True, input_schema={"type": "object"})


def make_run(**changes: object) -> Run:
    """A pending run of alice's."""
    run = Run(
        run_id=RunId(new_id()),
        owner=ALICE,
        thread_id=ThreadId("t"),
        ord=1,
        agent=AgentName("demo"),
        request=RunRequest(kind=InputKind.INPUT, payload=None),
        request_id="r",
        key_id=None,
        status=RunStatus.PENDING,
        created_at=MOMENT,
        deadline_at=MOMENT + timedelta(seconds=120),
    )
    return replace(run, **changes)


@dataclass
class _Entry:
    run: Run
    events: list[Event] = field(default_factory=list[Event])
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class FakeRuns(Runs):
    """``commands``: what was asked to be created; ``left``: runs whose creating connection ended."""

    def __init__(self) -> None:
        self.commands: list[CreateRun] = []
        self.principals: list[Principal] = []
        self.left: list[RunId] = []
        self.cancelled: list[RunId] = []
        self.created = asyncio.Event()
        self.gone = asyncio.Event()
        self.refusal: Exception | None = None
        self.answer: tuple[RunStatus, RunResult] | None = None
        self.draining = False
        self.events: Sequence[RunEvent] = ()
        self.rates: Sequence[RateStatus] = ()
        self.model_calls: Sequence[ModelCall] = ()
        self.open_reviews: list[ToolReview] = []
        self.resolutions: list[Resolution] = []
        self._entries: dict[RunId, _Entry] = {}
        self._keys: dict[str, tuple[str, RunId]] = {}
        self._changed = asyncio.Condition()
        self._broken: Exception | None = None

    async def create(self, principal: Principal, command: CreateRun) -> Accepted:
        principal.require(Scope.RUNS_WRITE)
        if self.refusal is not None:
            raise self.refusal
        joined = self._joined(command.idempotency)
        if joined is not None:
            return Accepted(run=joined, replayed=True, rates=self.rates)
        self.commands.append(command)
        self.principals.append(principal)
        thread = ThreadId(command.thread_id or new_id())
        run = make_run(
            owner=principal.owner,
            thread_id=thread,
            request=RunRequest(kind=InputKind.INPUT, payload=None, metadata=command.metadata),
            status=RunStatus.RUNNING,
            attempt=1,
            started_at=MOMENT,
        )
        self._entries[run.run_id] = _Entry(run)
        if command.idempotency is not None:
            self._keys[command.idempotency.key] = (command.idempotency.body_hash, run.run_id)
        await self.push(run.run_id, RunStarted(run_id=run.run_id, thread_id=thread, agent=run.agent), *self.events)
        if self.answer is not None:
            await self.end(run.run_id, self.answer[0], self.answer[1])
        self.created.set()
        return Accepted(run=self._entries[run.run_id].run, rates=self.rates)

    async def get(self, principal: Principal, run_id: str) -> Run:
        principal.require(Scope.RUNS_READ)
        entry = self._entries.get(RunId(run_id))
        if entry is None or entry.run.owner != principal.owner:
            raise NotFound("there is no such run")
        return entry.run

    async def calls(self, principal: Principal, run_id: str) -> Sequence[ModelCall]:
        await self.get(principal, run_id)
        return self.model_calls

    async def reviews(self, run: Run) -> Sequence[ToolReview]:
        return [one for one in self.open_reviews if one.run_id == run.run_id]

    async def resolve(self, principal: Principal, run_id: str, tool_call_id: str, resolution: Resolution) -> Run:
        run = await self.get(principal, run_id)
        found = [one for one in await self.reviews(run) if one.tool_call_id == tool_call_id]
        if not found:
            raise NotFound("the run asks for no review of this tool call")
        self.open_reviews.remove(found[0])
        self.resolutions.append(resolution)
        return run

    async def wait(self, run: Run) -> Run:
        await self._entries[run.run_id].ended.wait()
        if self.draining:
            raise Draining("the server is shutting down")
        return self._entries[run.run_id].run

    async def cancel(self, principal: Principal, run_id: str) -> Run:
        run = await self.get(principal, run_id)
        self.cancelled.append(run.run_id)
        return run

    async def disconnected(self, run: Run) -> None:
        self.left.append(run.run_id)
        self.gone.set()

    async def resume(
        self,
        principal: Principal,
        run_id: str,
        value: JsonValue,
        *,
        request_id: str,
        idempotency: IdempotencyRecord | None,
        on_disconnect: DisconnectPolicy,
    ) -> Accepted:
        old = await self.get(principal, run_id)
        if old.status is not RunStatus.INTERRUPTED:
            raise Conflict("there is nothing to resume")
        command = CreateRun(
            agent=old.agent,
            thread_id=old.thread_id,
            input=value,
            has_input=True,
            request_id=request_id,
            idempotency=idempotency,
            on_disconnect=on_disconnect,
        )
        return await self.create(principal, command)

    @property
    def only(self) -> Run:
        """The one run there is."""
        (entry,) = self._entries.values()
        return entry.run

    def put(self, run: Run, *events: Event) -> None:
        """Add a run with its whole log."""
        self._entries[run.run_id] = _Entry(run, list(events))
        if run.status.final:
            self._entries[run.run_id].ended.set()

    async def push(self, run_id: RunId, *bodies: RunEvent) -> None:
        """Append events of the present attempt."""
        entry = self._entries[run_id]
        for body in bodies:
            number = sum(event.id.attempt == entry.run.attempt for event in entry.events) + 1
            entry.events.append(Event(id=EventId(entry.run.ord, entry.run.attempt, number), body=body))
        async with self._changed:
            self._changed.notify_all()

    async def end(self, run_id: RunId, status: RunStatus, result: RunResult | None = None) -> None:
        """End a run: its row, its last event, its waiters."""
        entry = self._entries[run_id]
        result = result or RunResult()
        entry.run = replace(entry.run, status=status, result=result, finished_at=MOMENT + timedelta(seconds=1))
        await self.push(run_id, RunEnded(status=status, error=result.error, usage=result.usage))
        entry.ended.set()

    async def break_log(self, failure: Exception) -> None:
        """Whoever follows a run meets ``failure``."""
        self._broken = failure
        async with self._changed:
            self._changed.notify_all()

    async def hand_over(self) -> None:
        """The server drains: waits and streams end."""
        self.draining = True
        for entry in self._entries.values():
            entry.ended.set()
        async with self._changed:
            self._changed.notify_all()

    async def follow(self, run: Run, *, after: EventId | None) -> AsyncGenerator[Sequence[Event], None]:
        entry = self._entries[run.run_id]
        position = after
        while True:
            batch = [event for event in entry.events if position is None or event.id > position]
            if batch:
                yield batch
                position = batch[-1].id
            if self._broken is not None:
                raise self._broken
            if self.draining or (entry.events and isinstance(entry.events[-1].body, RunEnded)):
                return
            async with self._changed:
                await self._changed.wait()

    def _joined(self, idempotency: IdempotencyRecord | None) -> Run | None:
        known = None if idempotency is None else self._keys.get(idempotency.key)
        if idempotency is None or known is None:
            return None
        if known[0] != idempotency.body_hash:
            raise IdempotencyMismatch("the key was used with another body")
        return self._entries[known[1]].run


class FakeStreams(Streams):
    """Follows what FakeRuns has."""

    def __init__(self, runs: FakeRuns) -> None:
        self._runs = runs

    def follow(self, run: Run, *, after: EventId | None) -> AsyncGenerator[Sequence[Event], None]:
        return self._runs.follow(run, after=after)


class FakeThreads(Threads):
    """One thread of alice's, called ``t``."""

    def __init__(self) -> None:
        self.erased: list[str] = []
        self.busy = False

    async def list(self, principal: Principal, *, limit: int, cursor: str | None) -> Page[Thread]:
        return Page(items=[self._thread(principal)][:limit], cursor=None if cursor else "next")

    async def get(self, principal: Principal, thread_id: str) -> ThreadView:
        self._check(principal, thread_id)
        message = Message(id="m", role="user", content="hi")
        return ThreadView(thread=self._thread(principal), messages=(message,), values={"n": 1}, runs=[make_run()])

    async def erase(self, principal: Principal, thread_id: str) -> None:
        self._check(principal, thread_id)
        if self.busy:
            raise ThreadBusy("a run of the thread is unfinished")
        self.erased.append(thread_id)

    def _thread(self, principal: Principal) -> Thread:
        return Thread(
            ref=ThreadRef(owner=principal.owner, thread_id=ThreadId("t")),
            agent=AgentName("demo"),
            next_ord=2,
            active_run=None,
            created_at=MOMENT,
            updated_at=MOMENT,
        )

    def _check(self, principal: Principal, thread_id: str) -> None:
        if principal.owner != ALICE or thread_id != "t":
            raise NotFound("there is no such thread")


class FakeKeys(Keys):
    """Alice's own key, a backend's that may speak for others too, and one that may do only that."""

    def __init__(self) -> None:
        backend = Owner(tenant=TenantId("default"), user=UserId("backend"))
        self._known = {
            KEY: Principal(owner=ALICE, scopes=USER_SCOPES),
            BACKEND_KEY: Principal(owner=backend, scopes=USER_SCOPES | {Scope.RUNS_ON_BEHALF}),
            ON_BEHALF_KEY: Principal(owner=backend, scopes=frozenset({Scope.RUNS_ON_BEHALF})),
        }

    async def authenticate(self, text: str) -> Principal:
        try:
            return self._known[text]
        except KeyError:
            raise Unauthenticated("the key is not valid") from None


class FakeAgents(Agents):
    """The demo agent alone."""

    def __init__(self) -> None:
        pass

    def list(self, principal: Principal) -> Sequence[Agent]:
        return [DEMO]


class FakeReadiness(Readiness):
    """As well as the test says. ``looked``: how often somebody asked what is wrong."""

    def __init__(self) -> None:
        self.wrong: list[Problem] = []
        self.outside: list[Problem] = []
        self.looked = 0
        self._draining = False

    def begin_to_drain(self) -> None:
        """The server shuts down."""
        self._draining = True
        self.wrong = [Problem(name="draining", detail="the server is shutting down")]

    @property
    def draining(self) -> bool:
        return self._draining

    async def problems(self) -> Sequence[Problem]:
        self.looked += 1
        await asyncio.sleep(0)
        return self.wrong

    def degraded(self) -> Sequence[Problem]:
        return self.outside


class Fakes:
    """All of them."""

    def __init__(self) -> None:
        self.runs = FakeRuns()
        self.threads = FakeThreads()
        self.readiness = FakeReadiness()
        self.usage = FakeUsage(MOMENT)
        keys = FakeKeys()
        self.services = Services(
            runs=self.runs,
            streams=FakeStreams(self.runs),
            threads=self.threads,
            user_exports=NoUserExports(),
            user_erasures=NoUserErasures(),
            keys=keys,
            identity=Identity(keys, None),
            agents=FakeAgents(),
            budgets=NoBudgets(),
            limits=NoLimits(),
            usage=self.usage,
            audit=NoAudit(),
            readiness=self.readiness,
        )


def failed(code: str, message: str = "it went wrong") -> RunResult:
    """The result of a run that ended with an error."""
    return RunResult(error=RunError(code=code, message=message))
