"""A tiny server that speaks OpenAI's chat completions: it tells usage in a stream only when it is asked to.

Runs on the test's own loop. `tests.support.provider` is the faithful one, of Anthropic.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from types import TracebackType
from typing import Self

from pydantic import JsonValue, TypeAdapter

from tests.support.provider.wire import Connection, HttpRequest, json_bytes

MODEL = "gpt-5"

# LangChain keeps one HTTP client per URL for ever, so each server has a loopback address of its own.
_HOSTS = (f"127.240.{n // 250}.{n % 250 + 1}" for n in count())
_BODY: TypeAdapter[dict[str, JsonValue]] = TypeAdapter(dict[str, JsonValue])


@dataclass(slots=True, kw_only=True)
class OpenAIProvider:
    """`async with OpenAIProvider(pieces=…) as provider:` answers at `provider.url` with `pieces` of text.

    `arguments` are the pieces of one tool call's JSON after the text. With `hold_after` the stream stops after that
    many pieces of text until the client leaves. `requests` are the bodies that came.
    """

    pieces: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    hold_after: int | None = None
    url: str = ""
    requests: list[Mapping[str, JsonValue]] = field(default_factory=list[Mapping[str, JsonValue]])
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        started = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._serve(started))
        await started.wait()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._task is not None:
            await self._task

    async def _serve(self, started: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            serving: set[asyncio.Task[None]] = set()

            def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                serving.add(group.create_task(self._converse(Connection(reader, writer))))

            server = await asyncio.start_server(accept, next(_HOSTS), 0)
            host, port = server.sockets[0].getsockname()
            self.url = f"http://{host}:{port}/v1"
            started.set()
            await self._stop.wait()
            server.close()
            for task in serving:
                task.cancel()

    async def _converse(self, connection: Connection) -> None:
        try:
            while (request := await connection.next_request()) is not None:
                await connection.finishes(self._answer(connection, request))
        finally:
            connection.abort()

    async def _answer(self, connection: Connection, request: HttpRequest) -> None:
        body = _BODY.validate_json(request.body)
        self.requests.append(body)
        if not body.get("stream"):
            message: JsonValue = {"role": "assistant", "content": "".join(self.pieces)}
            whole = _document("chat.completion", {"message": message, "finish_reason": "stop"}, usage=self._usage())
            await connection.respond(200, json_bytes(whole), {"content-type": "application/json"})
            return
        await connection.start_stream({"content-type": "text/event-stream"})
        for number, piece in enumerate(self.pieces):
            if number == self.hold_after:
                await asyncio.Event().wait()
            await _send(connection, _delta({"role": "assistant", "content": piece}))
        for number, piece in enumerate(self.arguments):
            begun: dict[str, JsonValue] = {} if number else {"id": "call_1", "type": "function"}
            function: JsonValue = {"arguments": piece} if number else {"name": "fell", "arguments": piece}
            await _send(connection, _delta({"tool_calls": [{"index": 0, **begun, "function": function}]}))
        await _send(connection, _delta({}, finish_reason="tool_calls" if self.arguments else "stop"))
        options = body.get("stream_options")
        if isinstance(options, dict) and options.get("include_usage"):
            await _send(connection, _document("chat.completion.chunk", usage=self._usage()))
        await connection.send_chunk(b"data: [DONE]\n\n")
        await connection.send_chunk(b"")

    def _usage(self) -> JsonValue:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        }


def _delta(delta: JsonValue, *, finish_reason: str | None = None) -> JsonValue:
    return _document("chat.completion.chunk", {"delta": delta, "finish_reason": finish_reason})


def _document(kind: str, *choices: Mapping[str, JsonValue], usage: JsonValue = None) -> JsonValue:
    listed: list[JsonValue] = [{"index": 0, **choice} for choice in choices]
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": MODEL, "choices": listed, "usage": usage}


async def _send(connection: Connection, event: JsonValue) -> None:
    await connection.send_chunk(b"data: %b\n\n" % json.dumps(event).encode())
