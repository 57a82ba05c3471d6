"""What routes are given: the services and the limits of the web side.

``app.py`` puts a ``Web`` into the application's state; routes see it only through the ``Annotated`` aliases here and in
``http/auth.py``, where the caller joins it. The protocols name the part of each service that the web side uses;
``bootstrap.py`` makes the real ones.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Protocol

from fastapi import Depends
from starlette.requests import Request

from roadworthy.domain.agent import Agent
from roadworthy.domain.event import Event, EventId
from roadworthy.domain.json import JsonValue
from roadworthy.domain.page import Page
from roadworthy.domain.principal import Principal
from roadworthy.domain.run import DisconnectPolicy, Run
from roadworthy.domain.thread import Thread
from roadworthy.ports.queue import Accepted, IdempotencyRecord
from roadworthy.services.readiness import Problem
from roadworthy.services.runs import CreateRun
from roadworthy.services.threads import ThreadView


class Runs(Protocol):
    """See ``services/runs.py``."""

    async def create(self, principal: Principal, command: CreateRun) -> Accepted:
        """Accept a run, or join the one with the same idempotency key."""
        ...

    async def get(self, principal: Principal, run_id: str) -> Run:
        """One own run."""
        ...

    async def wait(self, run: Run) -> Run:
        """The run's final row."""
        ...

    async def cancel(self, principal: Principal, run_id: str) -> Run:
        """Stop an own run."""
        ...

    async def disconnected(self, run: Run) -> None:
        """Apply the run's policy: the connection that created it has ended."""
        ...

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
        """Go on behind a run, in a new one."""
        ...


class Streams(Protocol):
    """See ``services/streams.py``."""

    def follow(self, run: Run, *, after: EventId | None) -> AsyncIterator[Sequence[Event]]:
        """Batches of events behind ``after``, to the end of the run or until the server drains."""
        ...


class Threads(Protocol):
    """See ``services/threads.py``."""

    async def list(self, principal: Principal, *, limit: int, cursor: str | None) -> Page[Thread]:
        """Own threads, the latest used first."""
        ...

    async def get(self, principal: Principal, thread_id: str) -> ThreadView:
        """One own thread with what it holds."""
        ...

    async def erase(self, principal: Principal, thread_id: str) -> None:
        """Delete an own thread."""
        ...


class Keys(Protocol):
    """See ``services/keys.py``."""

    async def authenticate(self, text: str) -> Principal:
        """The caller behind a key."""
        ...


class Agents(Protocol):
    """See ``services/agents.py``."""

    def list(self, principal: Principal) -> Sequence[Agent]:
        """Agents that the caller may run, the default first."""
        ...


class Readiness(Protocol):
    """See ``services/readiness.py``."""

    async def problems(self) -> Sequence[Problem]:
        """Why traffic should go elsewhere."""
        ...

    def degraded(self) -> Sequence[Problem]:
        """What is wrong outside of the process."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Every use case that the web side reaches."""

    runs: Runs
    streams: Streams
    threads: Threads
    keys: Keys
    agents: Agents
    readiness: Readiness


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """Bounds of the web side. ``body_max`` in bytes, ``message_max`` in characters of text."""

    body_max: int = 4_000_000
    body_timeout: timedelta = timedelta(seconds=30)
    message_max: int = 4_000
    stream_heartbeat: timedelta = timedelta(seconds=15)
    slow_reader_timeout: timedelta = timedelta(seconds=30)
    cors_origins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Web:
    """What the application's state holds. ``auth`` False: every caller is the local user."""

    services: Services
    limits: HttpLimits
    auth: bool
    version: str


def web_of(request: Request) -> Web:
    """The ``Web`` that ``app.py`` put into the application's state."""
    web = request.app.state.web
    if not isinstance(web, Web):
        raise TypeError("the application was not built by build_app")
    return web


async def _web(request: Request) -> Web:
    return web_of(request)


WebState = Annotated[Web, Depends(_web)]
