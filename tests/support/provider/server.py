"""The fake provider's server: accepts connections, routes requests, and stops without leaving a task behind.

Above: `fake` (in a thread) and `__main__` (as a process). Below: `wire`, `messages`, `playbook`, `playing`, `control`.
"""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

from pydantic import JsonValue

from tests.support.provider import control
from tests.support.provider.answers import StreamedAnswer, WholeAnswer, respond_error
from tests.support.provider.errors import ApiError
from tests.support.provider.ledger import Ledger
from tests.support.provider.messages import InvalidMessages, MessagesRequest, parse_messages
from tests.support.provider.models import CATALOGUE
from tests.support.provider.playbook import Playbook
from tests.support.provider.playing import Gates, Playing
from tests.support.provider.rendering import plan_answer
from tests.support.provider.wire import Connection, HttpRequest, json_bytes

BAD_KEY = "bad"


class ProviderServer:
    """One listening server; `run` serves until `stop` is set."""

    def __init__(self, *, port: int = 0, ledger_path: Path | None = None) -> None:
        self.ledger = Ledger(ledger_path)
        self.playbook = Playbook()
        self.gates = Gates()
        self.stop = asyncio.Event()
        self.clients = 0
        self._port = port

    async def run(self, started: asyncio.Future[str]) -> None:
        """Serve on 127.0.0.1, tell the URL through `started`, return once `stop` is set and every client is cut off.

        Raises:
            OSError: the port is taken.
        """
        serving: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as group:

            def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                task = group.create_task(self._serve(Connection(reader, writer)))
                serving.add(task)
                task.add_done_callback(serving.discard)

            server = await asyncio.start_server(accept, "127.0.0.1", self._port)
            port: int = server.sockets[0].getsockname()[1]
            started.set_result(f"http://127.0.0.1:{port}")
            await self.stop.wait()
            server.close()
            for task in serving:
                task.cancel()
