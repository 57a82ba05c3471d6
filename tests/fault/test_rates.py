"""Rate limits of a real server: requests a minute, runs at once under a burst, and both ends of a crash."""

import asyncio
from collections import Counter

import httpx
import pytest

from tests.support.invariants import check_invariants
from tests.support.provider.script import Hold, Rule, Turn
from tests.support.rig import Rig

UNFINISHED = "SELECT count(*) AS n FROM runs WHERE status IN ('pending', 'running')"
MANY = {"MAX_CONCURRENT_REQUESTS": "50", "ROADWORTHY_QUEUE_SIZE": "200"}
ASK = {"message": "hi", "on_disconnect": "continue"}


async def test_more_requests_a_minute_than_allowed_are_told_when_to_come_back(rig: Rig) -> None:
    server = await rig.serve()
    async with server.client() as client:
        await _limit(client, "requests", 3)
        answers = [await client.post("/agent/invoke", json={"message": "say: hi"}) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[-1].json()["code"] == "rate_limited"
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 120
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"requests-per-user";q=3;w=60'}
    assert [answer.headers["ratelimit"].split(";")[1] for answer in answers] == ["r=2", "r=1", "r=0", "r=0"]
    assert len(rig.provider.ledger) == 3
    check_invariants(server, rig.provider.ledger)


async def test_a_burst_never_has_more_unfinished_runs_than_allowed(rig: Rig) -> None:
    """Fifty clients that ask again until they are let in, while the database is watched."""
    rig.provider.script(rules=(Rule(when="hi", turns=(Turn(text="hello", first_byte_ms=20),), pick="for_ever"),))
    server = await rig.serve(env=MANY)
    seen = Counter[int]()
    async with server.client() as client:
        await _limit(client, "runs", 5)
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(_watch(rig, seen))
            async with asyncio.TaskGroup() as burst:
                asked = [burst.create_task(_until_let_in(client)) for _ in range(50)]
            watching.cancel()
    assert sum(task.result() for task in asked) > 0, "nobody was refused"
    assert max(seen) == 5, seen
    assert len(rig.provider.ledger) == 50
    check_invariants(server, rig.provider.ledger)


async def test_runs_at_once_are_counted_anew_after_a_crash(rig: Rig) -> None:
    held = Turn(text="hello", hold=Hold())
    rig.provider.script(rules=(Rule(when="hi", turns=(held,) * 10), Rule(when="hi", turns=(Turn(text="again"),) * 5)))
    server = await rig.serve(env=MANY)
    async with server.client() as client:
        await _limit(client, "runs", 5)
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(_status(client)) for _ in range(50)]
            await rig.until(lambda: sum(task.done() for task in asked) == 45)
            await rig.provider.wait_for(lambda calls: sum(call.held for call in calls) == 5)
            assert server.rows(UNFINISHED) == [{"n": 5}]
            await server.kill()
        assert Counter(task.result() for task in asked) == {429: 45, 0: 5}
        await server.start()
        # The five are under way again, and still count.
        await rig.provider.wait_for(lambda calls: sum(call.held for call in calls) == 5)
        assert await _status(client) == 429
        for _ in range(10):
            rig.provider.release()
        await rig.until(lambda: server.rows(UNFINISHED) == [{"n": 0}])
        assert [await _status(client) for _ in range(5)] == [200] * 5
    assert len(rig.provider.ledger) == 15
    check_invariants(server, rig.provider.ledger, in_flight=5)


async def _limit(client: httpx.AsyncClient, kind: str, most: int) -> None:
    answer = await client.put("/admin/rates", json={"scope": "user", "kind": kind, "limit": most})
    assert answer.status_code == 200, answer.text


async def _until_let_in(client: httpx.AsyncClient) -> int:
    """Ask until there is an answer; how often that was refused. Does not wait as long as it is told to."""
    for refusals in range(1000):
        answer = await client.post("/agent/invoke", json=ASK)
        if answer.status_code == 200:
            return refusals
        assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited"), answer.text
        assert int(answer.headers["retry-after"]) >= 1
        await asyncio.sleep(0.05)
    pytest.fail("locked out")


async def _status(client: httpx.AsyncClient) -> int:
    """The status of an answer; 0 for none."""
    try:
        return (await client.post("/agent/invoke", json=ASK)).status_code
    except httpx.TransportError:
        return 0


async def _watch(rig: Rig, seen: Counter[int]) -> None:
    """Count how many runs are unfinished, again and again."""
    while True:
        seen[rig.server.rows(UNFINISHED)[0]["n"]] += 1
        await asyncio.sleep(0.005)
