"""Connections that end too early, stay too long or read too slowly, on a real server."""

import asyncio
import json
import select
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from roadworthy.app import build_app
from roadworthy.domain.event import ContentDelta
from roadworthy.domain.run import RunStatus
from roadworthy.http.deps import HttpLimits
from tests.support.web.fakes import KEY, Fakes
from tests.support.web.live import serving
from tests.support.web.raw import Wire, connected

BODY = b'{"message":"hi","thread_id":"t"}'
PATHS = ["/agent/invoke", "/agent/stream"]


@asynccontextmanager
async def served(fakes: Fakes, limits: HttpLimits | None = None) -> AsyncGenerator[int]:
    app = build_app(fakes.services, limits or HttpLimits(), auth=True, version="0", api_version="v1")
    async with serving(app) as port:
        yield port


@pytest.fixture
def fakes() -> Fakes:
    return Fakes()


@pytest.fixture
async def port(fakes: Fakes) -> AsyncIterator[int]:
    async with served(fakes) as port:
        yield port


async def ask(wire: Wire, path: str, **headers: str) -> None:
    await wire.head("POST", path, content_type="application/json", content_length=str(len(BODY)), **headers)
    await wire.send(BODY)


async def soon(event: asyncio.Event) -> None:
    async with asyncio.timeout(5):
        await event.wait()


async def data_of(wire: Wire) -> dict[str, object]:
    await wire.until(b"data: ")
    return json.loads(await wire.until(b"\n"))


async def test_events_arrive_one_by_one_while_the_run_is_under_way(fakes: Fakes, port: int) -> None:
    async with connected(port) as wire:
        await ask(wire, "/agent/stream")
        assert (await data_of(wire))["type"] == "run"
        for text in ("hel", "lo"):
            await fakes.runs.push(fakes.runs.only.run_id, ContentDelta(message_id="m", text=text))
            assert (await data_of(wire))["content"] == text
        await fakes.runs.end(fakes.runs.only.run_id, RunStatus.SUCCESS)
        assert (await data_of(wire))["type"] == "done"
        await wire.until(b"0\r\n\r\n")
        await wire.head("GET", "/livez")
        assert (await wire.answer()).status == 200, "the connection can be used again"
    assert fakes.runs.left == []


@pytest.mark.parametrize("path", PATHS)
async def test_a_client_that_leaves_is_noticed_at_once(fakes: Fakes, port: int, path: str) -> None:
    async with connected(port) as wire:
        await ask(wire, path)
        await soon(fakes.runs.created)
    await soon(fakes.runs.gone)
    assert fakes.runs.left == [fakes.runs.only.run_id]


@pytest.mark.parametrize("path", PATHS)
async def test_a_client_that_only_joined_may_leave_without_harm(fakes: Fakes, port: int, path: str) -> None:
    async with connected(port) as creating:
        await ask(creating, "/agent/stream", idempotency_key="k")
        await data_of(creating)
        async with connected(port) as joining:
            await ask(joining, path, idempotency_key="k")
            if path == "/agent/stream":
                assert (await data_of(joining))["run_id"] == fakes.runs.only.run_id
        async with connected(port) as watching:
            await watching.head("GET", f"/agent/runs/{fakes.runs.only.run_id}/stream")
            await data_of(watching)
        await fakes.runs.end(fakes.runs.only.run_id, RunStatus.SUCCESS)
        assert (await data_of(creating))["type"] == "done"
    assert fakes.runs.left == []
    assert len(fakes.runs.commands) == 1


async def test_a_cut_stream_goes_on_behind_the_last_event(fakes: Fakes, port: int) -> None:
    async with connected(port) as wire:
        await ask(wire, "/agent/stream")
        opening = await data_of(wire)
    run_id = fakes.runs.only.run_id
    await fakes.runs.push(run_id, ContentDelta(message_id="m", text="later"))
    async with connected(port) as wire:
        await wire.head("GET", f"/agent/runs/{run_id}/stream", last_event_id=str(opening["id"]))
        assert (await data_of(wire))["content"] == "later"


async def test_a_server_that_drains_says_where_to_go_on(fakes: Fakes, port: int) -> None:
    async with connected(port) as wire:
        await ask(wire, "/agent/stream")
        await data_of(wire)
        await fakes.runs.hand_over()
        handover = await data_of(wire)
        assert handover == {
            "type": "handover",
            "run_id": fakes.runs.only.run_id,
            "resume": f"/agent/runs/{fakes.runs.only.run_id}/stream",
        }
        await wire.until(b"0\r\n\r\n")
    assert fakes.runs.left == []


async def test_a_log_that_breaks_ends_the_stream_in_good_order(fakes: Fakes, port: int) -> None:
    async with connected(port) as wire:
        await ask(wire, "/agent/stream")
        await data_of(wire)
        await fakes.runs.break_log(ValueError("a row that nobody can read"))
        assert (await data_of(wire))["type"] == "handover"
        await wire.until(b"0\r\n\r\n")
        await wire.head("GET", "/livez")
        assert (await wire.answer()).status == 200, "the connection can be used again"
    assert fakes.runs.left == []


async def test_a_silent_stream_is_kept_open_by_comments(fakes: Fakes) -> None:
    async with served(fakes, HttpLimits(stream_heartbeat=timedelta(milliseconds=10))) as port, connected(port) as wire:
        await ask(wire, "/agent/stream")
        await data_of(wire)
        for _ in range(3):
            await wire.until(b": ping\n\n")


async def test_a_reader_that_takes_nothing_is_dropped_and_the_run_goes_on(fakes: Fakes) -> None:
    limits = HttpLimits(slow_reader_timeout=timedelta(milliseconds=200))
    async with served(fakes, limits) as port, connected(port) as watching:
        with socket.socket() as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await asyncio.to_thread(lazy.connect, ("127.0.0.1", port))
            head = f"POST /agent/stream HTTP/1.1\r\nhost: a\r\nx-api-key: {KEY}\r\ncontent-type: application/json\r\n"
            lazy.sendall(f"{head}content-length: {len(BODY)}\r\n\r\n".encode() + BODY)
            await soon(fakes.runs.created)
            for _ in range(200):
                text = ContentDelta(message_id="m", text="x" * 100_000)
                await fakes.runs.push(fakes.runs.only.run_id, text)
            await watching.head("GET", "/livez")
            assert (await watching.answer()).status == 200, "others are served meanwhile"
            assert await asyncio.to_thread(received_before_reset, lazy) < 10_000_000
        assert fakes.runs.left == [], "a slow reader has not asked for the run to stop"
        assert not fakes.runs.only.status.final


def received_before_reset(lazy: socket.socket) -> int:
    """Bytes that a reader gets who begins to read only when the server has lost its patience."""
    lazy.settimeout(10)
    reset = select.poll()
    reset.register(lazy, select.POLLHUP | select.POLLERR)
    assert reset.poll(10_000), "the server never dropped the connection"
    received = 0
    try:
        while data := lazy.recv(65536):
            received += len(data)
    except ConnectionResetError:
        return received
    raise AssertionError("the connection was closed, not reset")


async def test_nothing_is_left_running_when_streams_have_ended(fakes: Fakes, port: int) -> None:
    async with connected(port) as wire:
        await wire.head("GET", "/livez")
        await wire.answer()
        before = len(asyncio.all_tasks())
        for _ in range(5):
            async with connected(port) as leaving:
                await ask(leaving, "/agent/stream")
                await data_of(leaving)
            await soon(fakes.runs.gone)
            fakes.runs.gone.clear()
        await wire.head("GET", "/livez")
        await wire.answer()
        assert len(asyncio.all_tasks()) <= before
    assert len(fakes.runs.left) == 5
