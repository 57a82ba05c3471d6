"""What routes are given: the services and the limits of the web side.

``app.py`` puts a ``Web`` into the application's state; routes see it only through the ``Annotated`` aliases here and in
``http/auth.py``, where the caller joins it. ``bootstrap.py`` makes the services.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated

from fastapi import Depends
from starlette.requests import Request

from roadworthy.http.readiness import RecentProblems
from roadworthy.http.turnstile import Turnstile
from roadworthy.ports.telemetry import Exposition, WebTelemetry
from roadworthy.services.agents import Agents
from roadworthy.services.audit import AuditTrail
from roadworthy.services.budgets import Budgets
from roadworthy.services.identity import Identity
from roadworthy.services.keys import Keys
from roadworthy.services.limits import Limits
from roadworthy.services.readiness import Readiness
from roadworthy.services.runs import Runs
from roadworthy.services.streams import Streams
from roadworthy.services.threads import Threads
from roadworthy.services.usage import UsageReports
from roadworthy.services.user_export import UserExports
from roadworthy.services.users import UserErasures


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Every use case that the web side reaches."""

    runs: Runs
    streams: Streams
    threads: Threads
    user_exports: UserExports
    user_erasures: UserErasures
    keys: Keys
    identity: Identity
    agents: Agents
    budgets: Budgets
    limits: Limits
    usage: UsageReports
    audit: AuditTrail
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
    """What the application's state holds. ``auth`` False: every caller is the local user. ``exposition``: what
    ``/metrics`` shows, None when it is shown elsewhere.
    """

    services: Services
    limits: HttpLimits
    problems: RecentProblems
    auth: bool
    version: str
    telemetry: WebTelemetry | None = None
    exposition: Exposition | None = None
    turnstile: Turnstile = field(default_factory=Turnstile)


def web_of(request: Request) -> Web:
    """The ``Web`` that ``app.py`` put into the application's state."""
    web = request.app.state.web
    if not isinstance(web, Web):
        raise TypeError("the application was not built by build_app")
    return web


async def _web(request: Request) -> Web:
    return web_of(request)


WebState = Annotated[Web, Depends(_web)]
