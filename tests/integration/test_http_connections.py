"""Peers that never finish saying what they want."""

from collections.abc import AsyncIterator

import pytest

from roadworthy.app import build_app
from roadworthy.http import connection
from roadworthy.http.deps import HttpLimits
from tests.support.web.fakes import Fakes
from tests.support.web.live import serving
from tests.support.web.raw import connected


@pytest.fixture
async def port() -> AsyncIterator[int]:
    app = build_app(Fakes().services, HttpLimits(), auth=True, version="0", api_version="v1")
    async with serving(app) as port:
        yield port


@pytest.mark.parametrize("head", [b"x-filler: " + b"x" * 200_000, b"x-many: 1\r\n" * 20_000])
async def test_headers_without_end_are_refused(port: int, head: bytes) -> None:
    async with connected(port) as wire:
        await wire.send(b"GET /livez HTTP/1.1\r\nhost: a\r\n")
        for begin in range(0, len(head), 10_000):
            if wire.writer.transport.is_closing():
                break
            await wire.send(head[begin : begin + 10_000])
        answer = await wire.answer()
        assert (answer.status, answer.json["code"]) == (431, "headers_too_large")
        assert await wire.closed()


async def test_large_headers_within_the_limit_are_taken_on_every_request_of_a_connection(port: int) -> None:
    async with connected(port) as wire:
        for _ in range(5):
            await wire.head("GET", "/livez", x_filler="x" * 50_000)
            assert (await wire.answer()).status == 200


async def test_a_peer_that_says_nothing_is_let_go(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.01)
    async with connected(port) as wire:
        assert await wire.closed()


async def test_a_peer_that_stops_in_the_middle_of_its_headers_is_let_go(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(port) as wire:
        await wire.head("GET", "/livez")
        assert (await wire.answer()).status == 200
        monkeypatch.setattr(connection, "HEAD_SECONDS", 0.01)
        await wire.send(b"GET /livez HTTP/1.1\r\nhost:")
        assert await wire.closed()


async def test_a_request_under_way_is_not_let_go(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected(port) as slow:
        headers = {"content_type": "application/json", "content_length": "2", "expect": "100-continue"}
        await slow.head("POST", "/agent/invoke", **headers)
        await slow.until(b"100 Continue\r\n\r\n")
        monkeypatch.setattr(connection, "HEAD_SECONDS", 0.01)
        async with connected(port) as idle:
            assert await idle.closed(), "time has passed"
        await slow.send(b"{}")
        assert (await slow.answer()).status == 422
