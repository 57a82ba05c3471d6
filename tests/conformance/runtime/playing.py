"""Runs, and how tests play them on a runtime: what came out, and what a crash after the n-th write leaves behind."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from langgraph.graph.state import CompiledStateGraph

from roadworthy.domain.errors import LeaseLost, RoadworthyError, StorageUnavailable, Unavailable
from roadworthy.domain.event import ContentDelta, ContentRetracted, InterruptRaised
from roadworthy.domain.ids import AgentName, RunId, TenantId, ThreadId, UserId
from roadworthy.domain.json import JsonObject, JsonValue
from roadworthy.domain.principal import Owner
from roadworthy.domain.run import InputKind, Run, RunRequest, RunStatus
from roadworthy.domain.thread import ThreadRef
from roadworthy.domain.usage import ModelCall
from roadworthy.ports.runtime import (
    AgentRuntime,
    Caps,
    Completed,
    Drained,
    Execution,
    Outcome,
    Paused,
    RuntimeEvent,
    Spending,
)
from roadworthy.runtimes.langgraph.checkpoints import FencedSqliteSaver
from roadworthy.runtimes.langgraph.graphs import Graph
from roadworthy.runtimes.langgraph.postgres_checkpoints import FencedPostgresSaver
from roadworthy.runtimes.langgraph.registry import LoadedAgent
from roadworthy.runtimes.langgraph.runtime import LangGraphRuntime, open_runtime
from roadworthy.runtimes.langgraph.state_places import PostgresTables, SqliteFolder, StatePlace
from roadworthy.runtimes.langgraph.store import StoreConfig, StoreScope
from roadworthy.storage.postgres_connection import Timeouts, connection_info
from tests.conformance.runtime.holding import holding

Event = TypeVar("Event", bound=object)

OWNER = Owner(tenant=TenantId("acme"), user=UserId("ann"))
AGENT = AgentName("agent")
CAPS = Caps(steps=50, model_calls=20, tool_calls=20)
BOUND = 20.0


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        """The present moment."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What an attempt told, and how it ended."""

    events: Sequence[RuntimeEvent]
    outcome: Outcome | None
    error: RoadworthyError | None
    open_calls: Sequence[ModelCall] = ()

    @property
    def text(self) -> str:
        """All content that was not retracted."""
        void = {event.message_id for event in self.of(ContentRetracted)}
        return "".join(event.text for event in self.of(ContentDelta) if event.message_id not in void)

    def of(self, kind: type[Event]) -> Sequence[Event]:
        """The events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def completed(self) -> Completed:
        """The outcome of a run that reached its end."""
        assert isinstance(self.outcome, Completed), self.error or self.outcome
        return self.outcome

    @property
    def paused(self) -> Paused:
        """The outcome of a run that waits for a human."""
        assert isinstance(self.outcome, Paused), self.error or self.outcome
        return self.outcome

    @property
    def questions(self) -> Mapping[str, JsonValue]:
        """What is asked, by id."""
        return {one.id: one.value for event in self.of(InterruptRaised) for one in event.interrupts}


_numbers = iter(range(1, 1_000_000))


def a_run(
    payload: JsonValue = None,
    *,
    kind: InputKind = InputKind.INPUT,
    agent: str = AGENT,
    thread: str = "thread",
    owner: Owner = OWNER,
    context: JsonObject | None = None,
    rollback_of: RunId | None = None,
    number: int = 1,
) -> Run:
    """A running run in its first attempt. ``number`` is its place on the thread."""
    now = datetime.now(UTC)
    return Run(
        run_id=RunId(f"{next(_numbers):032x}"),
        owner=owner,
        thread_id=ThreadId(thread),
        ord=number,
        agent=AgentName(agent),
        request=RunRequest(kind=kind, payload=payload, context=context),
        request_id="request",
        key_id=None,
        status=RunStatus.RUNNING,
        attempt=1,
        rollback_of=rollback_of,
        created_at=now,
        deadline_at=now + timedelta(seconds=60),
    )


def retried(run: Run) -> Run:
    """The run in its next attempt."""
    return replace(run, attempt=run.attempt + 1)


async def marked(runtime: AgentRuntime, run: Run) -> Run:
    """The run as the engine would start it: with its resume mark."""
    mark = await runtime.resume_mark(run)
    return run if mark is None else replace(run, resume_mark=mark)


def ref_of(run: Run) -> ThreadRef:
    """The thread of a run."""
    return ThreadRef(owner=run.owner, thread_id=run.thread_id)


async def play(
    runtime: AgentRuntime,
    run: Run,
    *,
    caps: Caps = CAPS,
    first: bool = False,
    spending: Spending | None = None,
    told: Collection[str] = (),
    on_event: Callable[[Execution, RuntimeEvent], None] | None = None,
) -> Played:
    """Play one attempt to its end."""
    events: list[RuntimeEvent] = []
    outcome: Outcome | None = None
    error: RoadworthyError | None = None
    prepared = runtime.execution(run, caps=caps, first_on_thread=first, spending=spending, told=told)
    async with asyncio.timeout(BOUND), prepared as execution:
        try:
            async for event in execution.events():
                if isinstance(event, Completed | Paused | Drained):
                    outcome = event
                else:
                    events.append(event)
                if on_event is not None:
                    on_event(execution, event)
        except RoadworthyError as raised:
            error = raised
        if isinstance(outcome, Completed | Paused) or (
            error is not None and not isinstance(error, (Unavailable, LeaseLost))
        ):
            # As the engine does at a run's end.
            await execution.billed()
        await execution.settled()
        return Played(events=events, outcome=outcome, error=error, open_calls=execution.open_calls())


def prepared(runtime: AgentRuntime, run: Run, *, caps: Caps = CAPS, spending: Spending | None = None) -> Any:
    """The context manager of an attempt that the test drives itself."""
    return runtime.execution(run, caps=caps, first_on_thread=False, spending=spending)


@dataclass(slots=True, kw_only=True)
class Bench:
    """Opens runtimes over graphs, again over the same state if asked twice. ``url``: of the database, if not files."""

    folder: Path
    url: str | None = None
    tool_timeout: timedelta = timedelta(seconds=10)
    tool_output_max: int = 1000
    store_scope: StoreScope = "user"
    extra_types: Sequence[str] = ()
    store: StoreConfig | None = None
    waiting_threads: int = 8

    @asynccontextmanager
    async def serve(self, *graphs: object, **named: object) -> AsyncGenerator[LangGraphRuntime]:
        """A runtime over one graph, named ``agent``, or several named ones."""
        loaded = [
            LoadedAgent(name=AgentName(name), graph=cast("Graph", graph))
            for name, graph in {**{str(AGENT): one for one in graphs}, **named}.items()
        ]
        async with open_runtime(
            loaded,
            state=self.state,
            tool_timeout=self.tool_timeout,
            tool_output_max=self.tool_output_max,
            store_scope=self.store_scope,
            extra_types=self.extra_types,
            store_index=self.store,
            clock=SystemClock(),
            waiting_threads=self.waiting_threads,
        ) as runtime:
            yield runtime if self.url is None else holding(runtime, self.url)

    @property
    def state(self) -> StatePlace:
        """Where the agents' state is kept."""
        if self.url is None:
            return SqliteFolder(path=self.folder)
        return PostgresTables(conninfo=connection_info(self.url, Timeouts()))


async def looked_up(runtime: LangGraphRuntime, query: str, *values: object) -> list[Any]:
    """What is in the state's tables."""
    return list(await runtime.saver.rows.transact(lambda rows: rows.all(query, *values)))


@contextmanager
def intercepted(
    runtime: LangGraphRuntime,
    monkeypatch: pytest.MonkeyPatch,
    around: Callable[[str, Callable[[], Awaitable[Any]]], Awaitable[Any]],
) -> Generator[None]:
    """Call ``around`` instead of whatever is done in the checkpointer's database: with its name, and it itself.

    ``write`` is a checkpoint, or what a task wrote; the others are the names of functions.
    """
    saver = runtime.saver
    with monkeypatch.context() as patch:
        if isinstance(saver, FencedSqliteSaver):
            real = saver.conn.transact

            async def transact(work: Any, *, about: str = "") -> Any:
                return await around(work.__name__, lambda: real(work, about=about))

            patch.setattr(saver.conn, "transact", transact)
        else:
            assert isinstance(saver, FencedPostgresSaver)
            database = saver.database
            real_unit, real_write = database.transact, database.write

            async def unit(work: Any, **options: Any) -> Any:
                return await around(work.__name__, lambda: real_unit(work, **options))

            async def write(*args: Any, **options: Any) -> Any:
                return await around("write", lambda: real_write(*args, **options))

            patch.setattr(database, "transact", unit)
            patch.setattr(database, "write", write)
        yield


@contextmanager
def crash_after(runtime: LangGraphRuntime, writes: int, monkeypatch: pytest.MonkeyPatch) -> Generator[list[int]]:
    """Let only so many writes reach the checkpoints, as if the process had died then. Yields the number refused."""
    refused = [0]
    left = [writes]

    async def around(name: str, proceed: Callable[[], Awaitable[Any]]) -> Any:
        if name == "write":
            if left[0] == 0:
                refused[0] += 1
                raise StorageUnavailable("crashed")
            left[0] -= 1
        return await proceed()

    with intercepted(runtime, monkeypatch, around):
        yield refused


Compiled = CompiledStateGraph[Any, Any, Any, Any]
