"""What no run may come of: every refusal is a problem that the client really receives, and nothing is stored."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from roadworthy.app import build_app
from roadworthy.http.connection import BoundedProtocol
from roadworthy.http.deps import HttpLimits
from tests.support.web.fakes import KEY, Fakes
from tests.support.web.live import serving
from tests.support.web.raw import Answer, connected

MEGABYTES_10 = 10_000_000
JSON = "application/json"


@pytest.fixture
def fakes() -> Fakes:
    return Fakes()


@pytest.fixture(params=[BoundedProtocol, "h11"], ids=["httptools", "h11"])
async def port(fakes: Fakes, request: pytest.FixtureRequest) -> AsyncIterator[int]:
    app = build_app(fakes.services, HttpLimits(), auth=True, version="0", api_version="v1")
    async with serving(app, http=request.param) as port:
        yield port


def bodies() -> dict[str, tuple[bytes, str, int, str]]:
    message = {
        "empty": b'""',
        "blank": b'" \\n "',
        "4001 characters": b'"' + b"x" * 4001 + b'"',
        "a number": b"5",
        "an object": b"{}",
        "empty list": b"[]",
        "null": b"null",
    }
    invalid = {f"message: {name}": b'{"message":' + text + b"}" for name, text in message.items()}
    invalid |= {
        "neither": b"{}",
        "both": b'{"message":"a","input":{}}',
        "unknown field": b'{"message":"a","mesage":"b"}',
        "thread id": b'{"message":"a","thread_id":"../x"}',
        "agent": b'{"message":"a","agent":"a b"}',
        "policy": b'{"message":"a","on_disconnect":"stay"}',
        "a list": b"[]",
        "a text": b'"hi"',
    }
    malformed = {
        "nothing": b"",
        "broken": b'{"message":"a"',
        "NUL": b'{"message":"a\\u0000b"}',
        "raw NUL": b'{"message":"a\x00b"}',
        "lone surrogate": b'{"message":"\\ud800"}',
        "invalid UTF-8": b'{"message":"\xff"}',
        "NaN": b'{"input":NaN}',
        "huge integer": b'{"input":' + b"9" * 100 + b"}",
        "deep": b'{"input":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    }
    cases = {name: (body, JSON, 422, "invalid_request") for name, body in invalid.items()}
    cases |= {name: (body, JSON, 400, "malformed_body") for name, body in malformed.items()}
    for kind in ("text/plain", "", "application/x-www-form-urlencoded", "application/jsonp", "multipart/form-data"):
        cases[f"type {kind}"] = (b'{"message":"a"}', kind, 415, "unsupported_media_type")
    cases["5 MB"] = (b'{"message":"' + b"x" * 5_000_000 + b'"}', JSON, 413, "body_too_large")
    return cases


CASES = bodies()


@pytest.mark.parametrize("path", ["/agent/invoke", "/agent/stream"])
async def test_every_bad_body_is_refused_with_its_code(fakes: Fakes, port: int, path: str) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers={"x-api-key": KEY}) as client:
        for name, (body, kind, status, code) in CASES.items():
            answer = await client.post(path, content=body, headers={"content-type": kind})
            assert answer.headers["content-type"] == "application/problem+json", name
            problem = answer.json()
            assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code), name
            assert problem["request_id"] == answer.headers["x-request-id"], name
            assert len(answer.content) < 5000, name
    assert fakes.runs.commands == []


@pytest.mark.parametrize(
    "path", ["runs/nope", "runs/" + "0" * 32, "threads/..%2fx", "threads/%00", "threads/" + "x" * 999]
)
async def test_a_foreign_or_malformed_id_is_not_found(port: int, path: str) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers={"x-api-key": KEY}) as client:
        answer = await client.get(f"/agent/{path}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def refused(port: int, *, declared: bool, key: str | None, **headers: str) -> Answer:
    """Send 10 MB before reading a byte of the answer, as most clients do."""
    async with connected(port) as wire:
        length = {"content_length": str(MEGABYTES_10)} if declared else {"transfer_encoding": "chunked"}
        await wire.head("POST", "/agent/invoke", key=key, content_type=JSON, **length, **headers)
        for _ in range(100):
            block = b"x" * (MEGABYTES_10 // 100)
            await (wire.send(block) if declared else wire.send_chunk(block))
        if not declared:
            await wire.send(b"0\r\n\r\n")
        return await wire.answer()


@pytest.mark.parametrize("connection", ["keep-alive", "close"])
@pytest.mark.parametrize(
    ("declared", "key", "status", "code"),
    [
        (False, None, 401, "unauthenticated"),
        (False, "rw_live_nobody", 401, "unauthenticated"),
        (False, KEY, 413, "body_too_large"),
        (True, None, 413, "body_too_large"),
        (True, KEY, 413, "body_too_large"),
    ],
)
async def test_a_refusal_reaches_a_client_that_is_still_sending_10_megabytes(
    fakes: Fakes, port: int, connection: str, declared: bool, key: str | None, status: int, code: str
) -> None:
    answer = await refused(port, declared=declared, key=key, connection=connection)
    assert (answer.status, answer.json["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert fakes.runs.commands == []


async def test_a_refusal_of_a_large_body_ends_the_connection_in_good_order(port: int) -> None:
    async with connected(port) as wire:
        await wire.head("POST", "/nowhere", content_length=str(1_000_000))
        await wire.send(b"x" * 1_000_000)
        answer = await wire.answer()
        assert (answer.status, answer.headers["connection"]) == (404, "close")
        assert await wire.closed()


async def test_a_refusal_of_a_small_body_keeps_the_connection_for_the_next_request(port: int) -> None:
    async with connected(port) as wire:
        for _ in range(3):
            body = json.dumps({"message": "x" * 1000}).encode()
            await wire.head("POST", "/agent/invoke", key=None, content_type=JSON, content_length=str(len(body)))
            await wire.send(body)
            assert (await wire.answer()).status == 401


async def test_a_client_that_asks_for_leave_is_refused_before_it_sends(port: int) -> None:
    async with connected(port) as wire:
        await wire.head("POST", "/agent/invoke", key=None, content_length="3000000", expect="100-continue")
        answer = await wire.answer()
        assert answer.status == 401


async def test_a_client_that_asks_for_leave_gets_it_when_it_may_send(fakes: Fakes, port: int) -> None:
    body = b'{"message":"hi","unknown":1}'
    async with connected(port) as wire:
        await wire.head(
            "POST", "/agent/invoke", content_type=JSON, content_length=str(len(body)), expect="100-continue"
        )
        assert b"100 Continue" in await wire.until(b"\r\n\r\n")
        await wire.send(body)
        assert (await wire.answer()).status == 422


async def test_a_client_that_leaves_in_the_middle_of_its_body_leaves_nothing_behind(fakes: Fakes, port: int) -> None:
    async with connected(port) as wire:
        await wire.head("POST", "/agent/invoke", content_type=JSON, content_length="1000")
        await wire.send(b'{"message":')
    async with connected(port) as wire:
        await wire.head("GET", "/livez")
        assert (await wire.answer()).status == 200
    assert fakes.runs.commands == []


async def test_many_refused_uploads_at_once_are_all_answered(port: int) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(refused(port, declared=False, key=None)) for _ in range(8)]
    assert [task.result().status for task in tasks] == [401] * 8
