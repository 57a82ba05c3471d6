from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta

import httpx
import pytest
from starlette.responses import PlainTextResponse

from roadworthy.cli.opening import Front, not_ready, opened
from roadworthy.domain.errors import ConfigError, RoadworthyError, StorageFull, StorageUnavailable

NOW = timedelta(0)


class Opening:
    """Fails with each of ``errors``, then opens. ``seen``: what `/readyz` said before each try."""

    def __init__(self, front: Front, *errors: RoadworthyError) -> None:
        self.front = front
        self.errors = list(errors)
        self.seen: list[str] = []
        self.closed = False

    @asynccontextmanager
    async def __call__(self) -> AsyncGenerator[str]:
        async with _client(self.front) as client:
            self.seen.append((await client.get("/readyz")).json()["problems"][0]["detail"])
        if self.errors:
            raise self.errors.pop(0)
        try:
            yield "opened"
        finally:
            self.closed = True


def _client(front: Front) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(front), base_url="http://test")


async def test_a_database_that_cannot_be_used_is_tried_until_it_can() -> None:
    front = Front()
    opening = Opening(front, StorageUnavailable("it is locked"), StorageFull("the disk is full"))
    async with opened(opening, front, retry_every=NOW) as thing:
        assert (thing, front.answers.is_set(), front.opened) == ("opened", True, False)
    assert opening.seen == ["the database is being opened", "it is locked", "the disk is full"]
    assert opening.closed


async def test_what_does_not_go_away_by_itself_ends_the_opening_at_once() -> None:
    front = Front()
    opening = Opening(front, StorageUnavailable("it is locked"), ConfigError("a newer version has used it"))
    with pytest.raises(ConfigError):
        async with opened(opening, front, retry_every=NOW):
            pytest.fail("it was opened")
    assert not front.opened


async def test_a_database_that_is_lost_later_is_no_reason_to_open_again() -> None:
    front = Front()
    opening = Opening(front)
    with pytest.raises(StorageUnavailable):
        async with opened(opening, front, retry_every=NOW):
            raise StorageUnavailable("lost")
    assert (len(opening.seen), opening.closed) == (1, True)


async def test_the_front_turns_from_one_application_to_the_other() -> None:
    front = Front()
    drained: list[bool] = []

    async def drain() -> None:
        drained.append(True)

    await front.drain()
    async with _client(front) as client:
        assert (await client.get("/health")).status_code == 503
        front.open(PlainTextResponse("the real one"), drain)
        assert (await client.get("/health")).text == "the real one"
    await front.drain()
    assert (front.opened, drained) == (True, [True])


async def test_before_the_database_is_open_only_the_probes_speak_and_all_else_is_told_to_come_back() -> None:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(not_ready("it is locked")), base_url="http://test"
    ) as client:
        alive = await client.get("/livez")
        ready = await client.get("/readyz")
        refused = await client.post("/agent/invoke", json={"message": "hello"}, headers={"X-Request-Id": "r-1"})
    assert (alive.status_code, alive.json()) == (200, {"status": "alive"})
    assert ready.status_code == 503
    assert ready.json() == {
        "status": "not_ready",
        "problems": [{"name": "database", "detail": "it is locked"}],
        "degraded": [],
    }
    assert (refused.status_code, refused.json()["code"], refused.json()["request_id"]) == (503, "storage", "r-1")
    assert refused.headers["content-type"] == "application/problem+json"
    assert int(refused.headers["retry-after"]) > 0
