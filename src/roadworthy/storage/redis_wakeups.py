"""A line between the processes of a cluster over Redis Pub/Sub. Carries what ``wakeups.py`` says."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from redis.asyncio.client import PubSub

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.storage.redis_connection import RedisServer, translated


class RedisLine:
    """``wakeups.Line``. Listening takes one connection of its own."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._channel = server.key("wakeups")

    async def send(self, text: str) -> None:
        """See the protocol."""
        with translated():
            await self._server.commands.execute_command("PUBLISH", self._channel, text)

    async def listen(self) -> AsyncGenerator[str | None, None]:
        """See the protocol. A silent line is asked whether it is still there."""
        idle = self._server.times.idle.total_seconds()
        answer = self._server.times.answer.total_seconds()
        async with aclosing(self._server.client()) as client, aclosing(client.pubsub()) as line:
            with translated():
                await line.subscribe(self._channel)
            patience, asked = answer, True
            while True:
                with translated():
                    message = await self._next(line, patience)
                    if message is None and not asked:
                        await line.ping()
                if message is None:
                    if asked:
                        raise StorageUnavailable("Redis does not answer")
                    patience, asked = answer, True
                    continue
                patience, asked = idle, False
                kind, data = message
                if kind == "subscribe":
                    yield None
                elif kind == "message":
                    yield data

    def failed(self, error: StorageUnavailable) -> None:
        """See the protocol."""
        self._server.failed("wakeups", error)

    def worked(self) -> None:
        """See the protocol."""
        self._server.worked("wakeups")

    async def _next(self, line: PubSub, patience: float) -> tuple[str, str] | None:
        message = await line.get_message(timeout=patience)
        if message is None:
            return None
        data = message["data"]
        return str(message["type"]), data.decode(errors="replace") if isinstance(data, bytes) else str(data)
