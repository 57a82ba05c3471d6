"""Kill -9 around the moment in which an answer is kept: only what was in flight is bought again (catalogue 4)."""

from collections.abc import Mapping

import httpx
import pytest

from tests.support.invariants import check_invariants
from tests.support.rig import Rig
from tests.support.transcript import Transcript, follow

BODY = {"message": 'tool: note {"text": "a"}\nsay: done', "thread_id": "t", "on_disconnect": "continue"}


async def read_until_killed(client: httpx.AsyncClient, body: Mapping[str, object], transcript: Transcript) -> None:
    """Read the stream of a server that dies on it."""
    async with client.stream("POST", "/agent/stream", json=body) as response:
        async for _ in transcript.read(response):
            pass


@pytest.mark.parametrize("durability", ["async", "sync"])
@pytest.mark.parametrize("answer", [1, 2])
@pytest.mark.parametrize(("point", "extra"), [("before-response", 1), ("after-response", 0)])
async def test_a_kept_answer_is_replayed_and_billed_once(
    rig: Rig, point: str, extra: int, answer: int, durability: str
) -> None:
    server = await rig.serve(crash_at=point, env={"CRASH_SKIP": str(answer - 1)})
    transcript = Transcript()
    async with server.client() as client:
        with pytest.raises(httpx.TransportError):
            await read_until_killed(client, {**BODY, "durability": durability}, transcript)
        assert await server.exited() == -9
        await server.start()
        await rig.final(client, (await rig.only_run())["run_id"])
        await follow(client, transcript)
        run = (await client.get(f"/agent/runs/{transcript.run_id}")).json()
        thread = (await client.get("/agent/threads/t")).json()
    assert (run["status"], run["attempt"], run["response"]) == ("success", 2, "done"), run
    assert transcript.text() == "done"
    assert len(rig.provider.ledger) == 2 + extra
    assert run["usage"]["model_calls"] == 2
    assert rig.effects.count("note") == 1
    assert [message["role"] for message in thread["messages"]] == ["user", "assistant", "tool", "assistant"]
    check_invariants(server, rig.provider.ledger, transcripts=[transcript], in_flight=extra)
