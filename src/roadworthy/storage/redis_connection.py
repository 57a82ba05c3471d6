"""The way to a Redis or Valkey server. Made by ``bootstrap.py``; used by the adapters ``redis_*.py`` beside it.

Nothing that is kept in Redis is the only copy of anything: every adapter goes on without it and says so once a minute.
Every wait has an end, errors of the driver end here, and no text that leaves this module names a password.
"""

import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, Protocol

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from roadworthy.domain.errors import ConfigError, StorageUnavailable

_PREFIX = "roadworthy"
_NOTE_EVERY = timedelta(minutes=1)

Part = Literal["events", "followers", "rates", "wakeups"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisTimes:
    """``connect`` and ``answer`` bound every command. ``idle``: a connection that rested longer is tried before use."""

    connect: timedelta = timedelta(seconds=2)
    answer: timedelta = timedelta(seconds=2)
    idle: timedelta = timedelta(seconds=15)


class Notes(Protocol):
    """What is told of a Redis server: to a process's ``ports.telemetry.Telemetry``."""

    def worker_note(self, event: str, **fields: str | float | bool | None) -> None:
        """See ``Telemetry``."""
        ...


class RedisServer:
    """One process's connections: a bounded pool for commands, and single ones for who waits. See ``open_redis``."""

    def __init__(self, url: str, telemetry: Notes, *, times: RedisTimes, connections: int) -> None:
        self._url = url
        self._telemetry = telemetry
        self._failing: dict[Part, float] = {}
        self.times = times
        self.commands = self.client(connections)

    def client(self, connections: int = 1, *, patience: timedelta = timedelta(0)) -> Redis:
        """A client of its own. ``patience``: for how long its commands make the server wait. Who makes it closes it."""
        times = self.times
        options: dict[str, Any] = {
            "max_connections": connections,
            "timeout": times.answer.total_seconds(),
            "socket_connect_timeout": times.connect.total_seconds(),
            "socket_timeout": (times.answer + patience).total_seconds(),
            "health_check_interval": times.idle.total_seconds(),
            "client_name": _PREFIX,
            "protocol": 2,
            # Who may ask again does; the others must not wait for it.
            "retry": Retry(NoBackoff(), 0),
        }
        try:
            pool = BlockingConnectionPool.from_url(self._url, **options)
        except (ValueError, TypeError):
            raise ConfigError("the URL of Redis must look like redis://, rediss:// or unix://") from None
        return Redis.from_pool(pool)

    def key(self, *parts: str) -> str:
        """A name in the server's one space of names."""
        return ":".join((_PREFIX, *parts))

    async def problem(self) -> str | None:
        """Why it cannot be used, in words safe to show; None when it answers."""
        try:
            with translated():
                await self.commands.execute_command("PING")
        except StorageUnavailable as error:
            return error.message
        return None

    def trouble(self) -> str | None:
        """What goes on without it at the moment, in words safe to show; None when nothing has to."""
        return f"{', '.join(sorted(self._failing))} go on without Redis" if self._failing else None

    def failed(self, part: Part, error: StorageUnavailable) -> None:
        """Tell the operator, but not all the time, that ``part`` goes on without it."""
        now = time.monotonic()
        told = self._failing.get(part)
        if told is None or now - told >= _NOTE_EVERY.total_seconds():
            self._failing[part] = now
            cause = error.__cause__
            self._telemetry.worker_note("redis_unavailable", part=part, error=type(cause or error).__name__)

    def worked(self, part: Part) -> None:
        """Tell the operator when that is over."""
        if self._failing and self._failing.pop(part, None) is not None:
            self._telemetry.worker_note("redis_back", part=part)

    async def close(self) -> None:
        """Let go of the connections."""
        await self.commands.aclose()


@asynccontextmanager
async def open_redis(
    url: str, telemetry: Notes, *, times: RedisTimes | None = None, connections: int = 8
) -> AsyncGenerator[RedisServer]:
    """The server at ``url``, whether it answers or not.

    Raises:
        ConfigError: that is not a URL of a Redis server.
    """
    server = RedisServer(url, telemetry, times=times or RedisTimes(), connections=connections)
    try:
        yield server
    finally:
        await server.close()


async def redis_problem(url: str) -> str | None:
    """Why the server at ``url`` cannot be used, in words safe to show; None when it answers.

    Raises:
        ConfigError: that is not a URL of a Redis server.
    """
    async with open_redis(url, _Silence(), connections=1) as server:
        return await server.problem()


class _Silence:
    """For who only asks: nothing is told."""

    def worker_note(self, event: str, **fields: str | float | bool | None) -> None:
        """See ``Notes``."""


@contextmanager
def translated() -> Generator[None]:
    """Raise errors of the driver in the words of the core. The original stays as ``__cause__``."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise StorageUnavailable("Redis cannot be used at the moment") from error
