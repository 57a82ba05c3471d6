"""The fake provider's server: accepts connections, routes requests, and stops without leaving a task behind.

Above: `fake` (in a thread) and `__main__` (as a process). Below: `wire`, `messages`, `playbook`, `playing`, `control`.
"""

import asyncio
import socket
from collections.abc import Callable, Mapping
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
_RATE_LIMITS = {"requests": 4_000, "input-tokens": 2_000_000, "output-tokens": 400_000}


class ProviderServer:
    """One listening server; `run` serves until `stop` is set."""

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, ledger_path: Path | None = None) -> None:
        self._host = host
        self.ledger = Ledger(ledger_path)
        self.playbook = Playbook()
        self.gates = Gates()
        self.stop = asyncio.Event()
        self.clients = 0
        self._port = port

    async def run(self, started: Callable[[str], None]) -> None:
        """Serve on `host`, tell `started` the URL, and return once `stop` is set and every client is cut off.

        Raises:
            OSError: the port is taken.
        """
        # Bound before the group, which would wrap the error.
        listening = socket.create_server((self._host, self._port))
        serving: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as group:

            def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                task = group.create_task(self._serve(Connection(reader, writer)))
                serving.add(task)
                task.add_done_callback(serving.discard)

            server = await asyncio.start_server(accept, sock=listening)
            port: int = listening.getsockname()[1]
            started(f"http://{self._host}:{port}")
            await self.stop.wait()
            server.close()
            for task in serving:
                task.cancel()

    async def _serve(self, connection: Connection) -> None:
        counted = False
        try:
            while (request := await connection.next_request()) is not None:
                if request.path.startswith(control.PREFIX):
                    await connection.finishes(control.respond(self, connection, request))
                    continue
                if not counted:
                    counted = True
                    self.clients += 1
                await self._answer(connection, request)
            connection.close()
        except asyncio.CancelledError:
            connection.abort()
            raise
        finally:
            self.clients -= counted

    async def _answer(self, connection: Connection, request: HttpRequest) -> None:
        headers = _headers()
        error = _refusal(request)
        if error is not None:
            await connection.finishes(respond_error(connection, error, headers))
            return
        match request.method, request.path.removeprefix("/v1/").split("/"):
            case "POST", ["messages"]:
                await self._answer_message(connection, request, headers)
            case "POST", ["messages", "count_tokens"]:
                await connection.finishes(_count_tokens(connection, request, headers))
            case "GET", ["models"]:
                models: list[JsonValue] = [model.as_json() for model in CATALOGUE.values()]
                page: JsonValue = {"data": models, "has_more": False, "first_id": None, "last_id": None}
                await connection.finishes(_respond_json(connection, page, headers))
            case "GET", ["models", model_id] if model_id in CATALOGUE:
                await connection.finishes(_respond_json(connection, CATALOGUE[model_id].as_json(), headers))
            case "GET", ["models", model_id]:
                error = ApiError(status=404, message=f"model: {model_id}")
                await connection.finishes(respond_error(connection, error, headers))
            case _:
                error = ApiError(status=404, message="Not found")
                await connection.finishes(respond_error(connection, error, headers))

    async def _answer_message(self, connection: Connection, request: HttpRequest, headers: Mapping[str, str]) -> None:
        call_id = headers["request-id"].replace("req_", "msg_")
        try:
            message = parse_messages(request.body)
        except InvalidMessages as invalid:
            self.ledger.open(call_id=call_id, model="", streamed=False, messages=0, last_user_text="")
            await self._refuse(connection, call_id, ApiError(status=400, message=str(invalid)), headers)
            return
        self.ledger.open(
            call_id=call_id,
            model=message.model,
            streamed=message.stream,
            messages=len(message.messages),
            last_user_text=message.last_user_text(),
        )
        model = CATALOGUE.get(message.model)
        if model is None or model.lifecycle == "retired":
            await self._refuse(connection, call_id, ApiError(status=404, message=f"model: {message.model}"), headers)
            return
        try:
            playing = self._prepare(connection, call_id, message, headers)
        except InvalidMessages as invalid:
            await self._refuse(connection, call_id, ApiError(status=400, message=str(invalid)), headers)
            return
        if not await connection.finishes(playing.play()):
            self.ledger.close(call_id, "client_gone")

    def _prepare(
        self, connection: Connection, call_id: str, message: MessagesRequest, headers: Mapping[str, str]
    ) -> Playing:
        plan = plan_answer(
            self.playbook.next_turn(message),
            call_id=call_id,
            model=message.model,
            input_tokens=message.count_input_tokens(),
            max_tokens=message.max_tokens,
        )
        answer = StreamedAnswer(connection, headers) if message.stream else WholeAnswer(connection, headers, plan)
        return Playing(
            plan=plan, answer=answer, connection=connection, headers=headers, ledger=self.ledger, gates=self.gates
        )

    async def _refuse(self, connection: Connection, call_id: str, error: ApiError, headers: Mapping[str, str]) -> None:
        outcome = "bad_request" if error.status == 400 else f"error:{error.status}"
        self.ledger.close(call_id, outcome, error.message)
        await connection.finishes(respond_error(connection, error, headers))


def _headers() -> dict[str, str]:
    reset = (datetime.now(UTC) + timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    headers = {"request-id": f"req_{uuid4().hex}", "anthropic-organization-id": "org_fake"}
    for name, limit in _RATE_LIMITS.items():
        headers[f"anthropic-ratelimit-{name}-limit"] = str(limit)
        headers[f"anthropic-ratelimit-{name}-remaining"] = str(limit - 1)
        headers[f"anthropic-ratelimit-{name}-reset"] = reset
    return headers


def _refusal(request: HttpRequest) -> ApiError | None:
    # Newer clients send the key as a bearer token, older ones and curl examples as `x-api-key`.
    bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
    key = request.headers.get("x-api-key", bearer)
    if not key:
        return ApiError(status=401, message="x-api-key header is required")
    if key == BAD_KEY:
        return ApiError(status=401)
    if "anthropic-version" not in request.headers:
        return ApiError(status=400, message="anthropic-version: header is required")
    return None


async def _respond_json(connection: Connection, value: JsonValue, headers: Mapping[str, str]) -> None:
    await connection.respond(200, json_bytes(value), {**headers, "content-type": "application/json"})


async def _count_tokens(connection: Connection, request: HttpRequest, headers: Mapping[str, str]) -> None:
    # The body has no `max_tokens`; adding one lets the same rules check it.
    try:
        message = parse_messages(request.body.rstrip()[:-1] + b',"max_tokens":1}')
    except InvalidMessages as invalid:
        await respond_error(connection, ApiError(status=400, message=str(invalid)), headers)
        return
    await _respond_json(connection, {"input_tokens": message.count_input_tokens()}, headers)
