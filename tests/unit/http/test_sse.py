import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from datetime import timedelta

import pytest
from starlette.types import Message, Scope

from roadworthy.http.connection import EXTENSION
from roadworthy.http.deps import HttpLimits
from roadworthy.http.sse import EventStream, Frames, frame

PATIENT = HttpLimits(stream_heartbeat=timedelta(hours=1), slow_reader_timeout=timedelta(hours=1))
BODY = "http.response.body"


class Client:
    """The other end of a connection. ``stuck``: takes nothing any more."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.stuck = False
        self.aborted = False
        self.left = asyncio.Event()
        self.got = asyncio.Condition()

    @property
    def scope(self) -> Scope:
        return {"type": "http", "extensions": {EXTENSION: {"abort": self.abort}}}

    @property
    def writes(self) -> list[bytes]:
        return [message["body"] for message in self.sent if message["type"] == BODY]

    def abort(self) -> None:
        self.aborted = True
        self.left.set()

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.stuck:
            await asyncio.Event().wait()
        self.sent.append(message)
        async with self.got:
            self.got.notify_all()

    async def until(self, met: Callable[["Client"], bool]) -> None:
        async with asyncio.timeout(5), self.got:
            await self.got.wait_for(lambda: met(self))


async def batches(*given: Iterable[bytes]) -> Frames:
    for batch in given:
        yield batch


async def endless(closed: asyncio.Event, *first: bytes) -> AsyncGenerator[Iterable[bytes], None]:
    try:
        yield first
        await asyncio.Event().wait()
    finally:
        closed.set()


async def serve(client: Client, stream: EventStream) -> None:
    async with asyncio.timeout(5):
        await stream(client.scope, client.receive, client.send)
    assert len(asyncio.all_tasks()) == 1, "a task was left behind"


async def test_frames_that_are_ready_together_are_sent_together() -> None:
    client = Client()
    await serve(client, EventStream(batches([b"a", b"b", b"c"], [b"d"]), limits=PATIENT))
    assert client.writes == [b"retry: 1000\n\n", b"abc", b"d", b""]
    assert client.sent[-1] == {"type": BODY, "body": b"", "more_body": False}


async def test_a_long_replay_is_sent_in_bounded_pieces() -> None:
    client = Client()
    await serve(client, EventStream(batches([b"x" * 1000] * 1000), limits=PATIENT))
    assert sum(map(len, client.writes[1:])) == 1_000_000
    assert max(map(len, client.writes)) <= 65 * 1024


async def test_proxies_are_told_neither_to_buffer_nor_to_keep_it() -> None:
    client = Client()
    await serve(client, EventStream(batches(), limits=PATIENT))
    headers = {name.decode(): value.decode() for name, value in client.sent[0]["headers"]}
    assert headers == {
        "cache-control": "no-cache",
        "x-accel-buffering": "no",
        "content-type": "text/event-stream; charset=utf-8",
    }


async def test_silence_is_filled_with_comments() -> None:
    client, closed = Client(), asyncio.Event()
    limits = HttpLimits(stream_heartbeat=timedelta(milliseconds=1))
    async with asyncio.TaskGroup() as group:
        group.create_task(EventStream(endless(closed, b"a"), limits=limits)(client.scope, client.receive, client.send))
        await client.until(lambda client: client.writes.count(b": ping\n\n") >= 3)
        client.left.set()
    assert closed.is_set()


async def test_a_client_that_leaves_is_noticed_and_told_about_once() -> None:
    client, closed, left = Client(), asyncio.Event(), list[str]()

    async def note() -> None:
        left.append("left")

    stream = EventStream(endless(closed, b"a"), limits=PATIENT, on_disconnect=note)
    async with asyncio.TaskGroup() as group:
        group.create_task(serve_in(group, client, stream))
        await client.until(lambda client: b"a" in client.writes)
        client.left.set()
    assert left == ["left"]
    assert closed.is_set()


async def serve_in(_group: asyncio.TaskGroup, client: Client, stream: EventStream) -> None:
    async with asyncio.timeout(5):
        await stream(client.scope, client.receive, client.send)


async def test_a_client_that_leaves_after_the_end_is_no_disconnect() -> None:
    client, left = Client(), list[str]()

    async def note() -> None:
        left.append("left")

    await serve(client, EventStream(batches([b"a"]), limits=PATIENT, on_disconnect=note))
    client.left.set()
    await asyncio.sleep(0)
    assert left == []


async def test_a_slow_reader_is_dropped_without_being_called_a_disconnect() -> None:
    client, closed, left = Client(), asyncio.Event(), list[str]()
    client.stuck = True

    async def note() -> None:
        left.append("left")

    limits = HttpLimits(slow_reader_timeout=timedelta(milliseconds=20))
    await serve(client, EventStream(endless(closed, b"a"), limits=limits, on_disconnect=note))
    assert client.aborted
    assert left == []


async def test_a_reader_that_gets_stuck_while_the_stream_is_silent_is_dropped_by_its_heartbeat() -> None:
    client, closed = Client(), asyncio.Event()
    limits = HttpLimits(stream_heartbeat=timedelta(milliseconds=5), slow_reader_timeout=timedelta(milliseconds=20))
    async with asyncio.TaskGroup() as group:
        group.create_task(serve_in(group, client, EventStream(endless(closed, b"a"), limits=limits)))
        await client.until(lambda client: b"a" in client.writes)
        client.stuck = True
    assert client.aborted
    assert closed.is_set()


async def test_an_error_of_the_source_is_not_swallowed() -> None:
    async def failing() -> Frames:
        yield [b"a"]
        raise ValueError("broken")

    client = Client()
    with pytest.raises(ExceptionGroup) as failed:
        await serve(client, EventStream(failing(), limits=PATIENT))
    assert failed.group_contains(ValueError, match="broken")


async def test_cancelling_the_response_closes_the_source() -> None:
    client, closed = Client(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(serve_in(group, client, EventStream(endless(closed, b"a"), limits=PATIENT)))
        await client.until(lambda client: b"a" in client.writes)
        task.cancel()
    assert closed.is_set()
    assert len(asyncio.all_tasks()) == 1


def test_a_frame_carries_its_id_when_it_has_one() -> None:
    assert frame(b"{}", event_id="1-1-1") == b"id: 1-1-1\ndata: {}\n\n"
    assert frame(b"{}", event_id=None) == b"data: {}\n\n"
