"""A provider that is overloaded for ever is left alone, and used again as soon as it answers (catalogue 31)."""

import asyncio
from collections.abc import AsyncGenerator, Generator, Mapping
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.support.fleet import Fleet
from tests.support.invariants import check_invariants, log_records
from tests.support.openai_provider import OpenAIProvider
from tests.support.preloaded import Preloaded, PreloadedServer
from tests.support.provider.process import ProviderProcess
from tests.support.provider.script import Fault, Hold, Point, Rule, Turn
from tests.support.rig import Rig
from tests.support.server import ServerProcess
from tests.support.transcript import stream

FAILURES = 5
OVERLOADED = Turn(fault=Fault(kind="error", status=529))
DOWN = Rule(when="", turns=(OVERLOADED,), pick="for_ever")
# Longer than any test, and about as long as a few requests.
LONG, SHORT = {"ROADWORTHY_CIRCUIT_SECONDS": "100"}, {"ROADWORTHY_CIRCUIT_SECONDS": "1"}


@pytest.fixture(scope="module")
def preloaded() -> Generator[Preloaded]:
    with Preloaded() as one:
        yield one


@pytest.fixture
async def rig(tmp_path: Path, provider: ProviderProcess, preloaded: Preloaded) -> AsyncGenerator[Rig]:
    async with Rig(tmp_path, provider, make_server=partial(PreloadedServer, preloaded)) as one:
        yield one


async def test_after_five_failures_runs_are_refused_at_once_and_the_provider_is_left_alone(rig: Rig) -> None:
    rig.provider.script(rules=(DOWN,))
    server = await rig.serve(env=LONG)
    async with server.client() as client:
        await break_it(client)
        for number in range(FAILURES):
            refused = await invoke(client, thread_id=f"t{number}")
            assert (refused.status_code, refused.json()["code"]) == (503, "circuit_open"), refused.text
            assert refused.headers["content-type"] == "application/problem+json"
            assert int(refused.headers["retry-after"]) > 0
            assert "anthropic keeps failing" in refused.json()["detail"]
            run = refused.json()["run"]
            assert (run["status"], run["usage"]["model_calls"]) == ("error", 0)
        transcript = await stream(client, {"message": "hi"})
        assert [frame["type"] for frame in transcript.frames[-2:]] == ["error", "done"]
        assert transcript.frames[-2]["code"] == "circuit_open"
        assert 'roadworthy_circuit_open{provider="anthropic"} 1.0' in (await client.get("/metrics")).text
        ready = await client.get("/readyz")
    assert len(rig.provider.ledger) == FAILURES
    assert ready.status_code == 200, "a replica that can only refuse is still the one to ask"
    opened = [record for record in log_records(server) if record["event"] == "circuit_opened"]
    assert [(one["provider"], one["seconds"]) for one in opened] == [("anthropic", 100)]
    check_invariants(server, rig.provider.ledger, transcripts=[transcript])


async def test_the_first_answer_closes_it_and_the_threads_stay_usable(rig: Rig) -> None:
    rig.provider.script(rules=(DOWN,))
    server = await rig.serve(env=SHORT)
    async with server.client() as client:
        await break_it(client)
        rig.provider.script()
        assert (await until_asked(client))["response"] == "fine"
        assert len(rig.provider.ledger) == FAILURES + 1
        threads = [f"t{number}" for number in range(FAILURES)]
        answers = await asyncio.gather(*(invoke(client, thread_id=thread) for thread in threads))
        # Questions that got no answer are still there: each says it once more.
        assert [set(answer.json()["response"].split()) for answer in answers] == [{"fine"}] * FAILURES
        assert 'roadworthy_circuit_open{provider="anthropic"} 0.0' in (await client.get("/metrics")).text
    assert notes(server) == ["circuit_opened", "circuit_closed"]
    check_invariants(server, rig.provider.ledger)


async def test_only_one_call_probes_and_its_failure_opens_the_circuit_for_longer(rig: Rig) -> None:
    rig.provider.script(rules=(DOWN,))
    server = await rig.serve(env=SHORT)
    async with server.client() as client:
        await break_it(client)
        rig.provider.script(rules=(Rule(when="", turns=(Turn(fault=OVERLOADED.fault, hold=Hold()),)), DOWN))
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(until_asked(client))
            await rig.provider.wait_for(lambda calls: any(call.held for call in calls))
            meanwhile = await asyncio.gather(*(invoke(client) for _ in range(8)))
            assert {answer.json()["code"] for answer in meanwhile} == {"circuit_open"}
            assert len(rig.provider.ledger) == FAILURES + 1
            rig.provider.release()
        assert asked.result()["code"] == "provider_unavailable"
        assert (await invoke(client)).json()["code"] == "circuit_open"
    opened = [record["seconds"] for record in log_records(server) if record["event"] == "circuit_opened"]
    assert opened == [1, 2]
    check_invariants(server, rig.provider.ledger)


@pytest.mark.parametrize("at", ["first_byte", 1])
async def test_a_probe_that_is_cancelled_leaves_its_turn_to_the_next(rig: Rig, at: Point) -> None:
    rig.provider.script(rules=(DOWN,))
    server = await rig.serve(env=SHORT)
    async with server.client() as client:
        await break_it(client)
        rig.provider.script(rules=(Rule(when="", turns=(Turn(text="one two", hold=Hold(at=at)),)),))
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(until_asked(client))
            await rig.provider.wait_for(lambda calls: any(call.held for call in calls))
            (running,) = server.rows("SELECT run_id FROM runs WHERE status = 'running'")
            await client.post(f"/agent/runs/{running['run_id']}/cancel")
        assert asked.result()["code"] == "cancelled"
        assert notes(server) == ["circuit_opened"]
        answer = await invoke(client)
    assert answer.json().get("response") == "fine", answer.text
    check_invariants(server, rig.provider.ledger)


async def test_an_agent_that_retries_stops_at_the_moment_the_circuit_opens(rig: Rig) -> None:
    rig.provider.script(rules=(DOWN,))
    server = await rig.serve("retrying.py:graph", env={**LONG, "ROADWORTHY_CIRCUIT_FAILURES": "2"})
    async with server.client() as client:
        for calls in (2, 0):
            answer = await invoke(client)
            assert (answer.status_code, answer.json()["code"]) == (503, "circuit_open"), answer.text
            assert answer.json()["run"]["usage"]["model_calls"] == calls
    assert len(rig.provider.ledger) == 2
    check_invariants(server, rig.provider.ledger)


async def test_a_fallback_of_another_provider_takes_over_at_once(rig: Rig) -> None:
    rig.provider.script(rules=(DOWN,))
    async with OpenAIProvider(pieces=("from ", "another"), prompt_tokens=10, completion_tokens=2) as other:
        server = await rig.serve("falling_back.py:graph", env={**LONG, "OPENAI_BASE_URL": other.url})
        async with server.client() as client:
            for number in range(4):
                transcript = await stream(client, {"message": "hi", "thread_id": f"t{number}"})
                assert transcript.text() == "from another"
                assert transcript.done is not None
                assert len(other.requests) == number + 1
                assert len(rig.provider.ledger) == FAILURES, "the first run met the failures, the others none"
        assert notes(server) == ["circuit_opened"]
    assert {row["status"] for row in server.rows("SELECT status FROM runs")} == {"success"}


async def test_refusals_for_the_callers_own_reasons_open_nothing(rig: Rig) -> None:
    wrong = tuple(Turn(fault=Fault(kind="error", status=status)) for status in (400, 401, 404, 429) * 2)
    rig.provider.script(*wrong)
    server = await rig.serve(env=LONG)
    async with server.client() as client:
        for _ in wrong:
            assert (await invoke(client)).json()["code"] in {"agent_error", "agent_failed", "provider_unavailable"}
        assert (await invoke(client)).json()["response"] == "fine"
    assert notes(server) == []


async def test_what_one_replica_has_found_out_of_the_provider_all_of_them_heed(fleet: Fleet) -> None:
    await fleet.begin(env={"ROADWORTHY_CIRCUIT_SECONDS": "8"})
    fleet.provider.script(rules=(DOWN,))
    async with fleet.client(0) as first:
        for _ in range(5):
            failed = await invoke(first)
            assert (failed.status_code, failed.json()["code"]) == (502, "provider_unavailable"), failed.text
    await fleet.until(lambda: fleet.logs.count('"event": "circuit_opened"') == 3)
    for number in fleet.apis:
        async with fleet.client(number) as one:
            refused = await invoke(one)
        assert (refused.status_code, refused.json()["code"]) == (503, "circuit_open"), refused.text
        assert int(refused.headers["retry-after"]) > 0
    assert len(fleet.provider.ledger) == 5
    fleet.provider.script()
    async with fleet.client(2) as last:
        assert (await until_asked(last))["response"] == "fine"
    await fleet.until(lambda: fleet.logs.count('"event": "circuit_closed"') == 3)
    for number in fleet.apis:
        async with fleet.client(number) as one:
            assert (await invoke(one)).json()["response"] == "fine"
    assert len(fleet.provider.ledger) == 9
    assert fleet.rows("SELECT * FROM circuits") == []
    await fleet.settled()
    fleet.check()


async def break_it(client: httpx.AsyncClient) -> None:
    """Fail as often as opens the circuit."""
    for number in range(FAILURES):
        answer = await invoke(client, thread_id=f"t{number}")
        assert (answer.status_code, answer.json()["code"]) == (502, "provider_unavailable"), answer.text


async def invoke(client: httpx.AsyncClient, **more: str) -> httpx.Response:
    """One question, to which a provider without a script answers."""
    return await client.post("/agent/invoke", json={"message": "say: fine", **more})


async def until_asked(client: httpx.AsyncClient) -> Mapping[str, object]:
    """The first answer that is none of the circuit's."""
    async with asyncio.timeout(30):
        while True:
            answer = (await invoke(client)).json()
            if answer.get("code") != "circuit_open":
                return answer
            await asyncio.sleep(0.02)


def notes(server: ServerProcess) -> list[str]:
    """What the server's log says of circuits."""
    return [record["event"] for record in log_records(server) if str(record["event"]).startswith("circuit_")]
