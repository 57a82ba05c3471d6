"""What a model provider can do to a run (catalogue 29, 30, 32 to 35)."""

import pytest

from tests.support.invariants import check_invariants
from tests.support.provider.script import Fault, FaultKind, Point, Rule, ToolUse, Turn
from tests.support.rig import Rig
from tests.support.transcript import stream

QUICK = {"ROADWORTHY_IDLE_TIMEOUT": "1.5"}


@pytest.mark.parametrize("kind", ["error", "cut", "reset", "garbage"])
@pytest.mark.parametrize("at", [0, 2, "end"])
async def test_a_stream_that_breaks_ends_the_run_as_the_providers_fault(rig: Rig, kind: FaultKind, at: Point) -> None:
    rig.provider.script(rules=(Rule(when="hi", turns=(Turn(text="one two three", fault=Fault(kind=kind, at=at)),)),))
    server = await rig.serve()
    async with server.client() as client:
        transcript = await stream(client, {"message": "hi", "thread_id": "t"})
        run = (await client.get(f"/agent/runs/{transcript.run_id}")).json()
        invoked = await client.post("/agent/invoke", json={"message": "say: fine now", "thread_id": "t"})
    assert (run["status"], run["error"]["code"]) == ("error", "provider_unavailable"), run
    assert [frame["type"] for frame in transcript.frames[-2:]] == ["error", "done"]
    assert transcript.text() == ""
    assert run["usage"]["model_calls"] == 1
    assert invoked.json()["response"] == "fine now", "the thread must stay usable"
    check_invariants(server, rig.provider.ledger, transcripts=[transcript])


@pytest.mark.parametrize("kind", ["error", "cut", "reset", "garbage"])
async def test_a_tool_is_never_run_from_an_unterminated_message(rig: Rig, kind: FaultKind) -> None:
    broken = Turn(
        tools=(ToolUse(name="note", args={"text": "a long argument that is cut"}),),
        fault=Fault(kind=kind, at="tool_json"),
    )
    rig.provider.script(rules=(Rule(when="note", turns=(broken,)),))
    server = await rig.serve()
    async with server.client() as client:
        answer = await client.post("/agent/invoke", json={"message": "note", "thread_id": "t"})
    assert answer.status_code == 502, answer.text
    assert answer.json()["code"] == "provider_unavailable"
    assert rig.effects.read() == ()
    check_invariants(server, rig.provider.ledger)


@pytest.mark.parametrize("kind", ["error", "cut", "reset", "garbage"])
async def test_an_agent_with_retry_gives_one_answer_after_retractions(rig: Rig, kind: FaultKind) -> None:
    broken = Turn(text="wrong words", fault=Fault(kind=kind, at=2))
    rig.provider.script(rules=(Rule(when="hi", turns=(broken, broken, Turn(text="right words"))),))
    server = await rig.serve("retrying.py:graph")
    async with server.client() as client:
        transcript = await stream(client, {"message": "hi", "thread_id": "t"})
        run = (await client.get(f"/agent/runs/{transcript.run_id}")).json()
    assert (run["status"], run["response"]) == ("success", "right words")
    assert transcript.text() == "right words"
    assert len(transcript.of_type("retract")) == 2
    assert run["usage"]["model_calls"] == len(rig.provider.ledger) == 3
    check_invariants(server, rig.provider.ledger, transcripts=[transcript])


async def test_a_rate_limit_is_waited_out_as_the_provider_asks(rig: Rig) -> None:
    limited = Turn(fault=Fault(kind="error", status=429, retry_after=1))
    rig.provider.script(rules=(Rule(when="hi", turns=(limited, Turn(text="at last"))),))
    server = await rig.serve("retrying.py:graph")
    async with server.client() as client:
        answer = await client.post("/agent/invoke", json={"message": "hi"})
    assert answer.json()["response"] == "at last"
    first, second = rig.provider.ledger
    assert second.received_mono - first.received_mono >= 1
    check_invariants(server, rig.provider.ledger)


async def test_a_rate_limit_beyond_the_deadline_is_told_to_the_client(rig: Rig) -> None:
    rig.provider.script(rules=(Rule(when="hi", turns=(Turn(fault=Fault(kind="error", status=429, retry_after=3600)),)),))
    server = await rig.serve("retrying.py:graph", env={"REQUEST_TIMEOUT": "20"})
    async with server.client() as client:
        answer = await client.post("/agent/invoke", json={"message": "hi"})
    assert (answer.status_code, answer.json()["code"]) == (502, "provider_unavailable")
    assert len(rig.provider.ledger) == 1


@pytest.mark.parametrize("kind", ["silence", "pings"])
@pytest.mark.parametrize("at", ["first_byte", 2])
async def test_silence_and_pings_end_by_the_idle_bound_and_are_billed_by_estimate(
    rig: Rig, kind: FaultKind, at: Point
) -> None:
    rig.provider.script(rules=(Rule(when="hi", turns=(Turn(text="one two three", fault=Fault(kind=kind, at=at)),)),))
    server = await rig.serve(env=QUICK)
    async with server.client() as client:
        answer = await client.post("/agent/invoke", json={"message": "hi", "thread_id": "t"})
        await rig.provider.wait_for_outcome("client_gone")
        run = answer.json()["run"]
        after = await client.post("/agent/invoke", json={"message": "say: fine", "thread_id": "t"})
    assert (answer.status_code, run["status"]) == (504, "timeout"), answer.text
    assert run["usage"]["estimated"] is True
    assert run["usage"]["input_tokens"] > 0
    assert after.json()["response"] == "fine"
    check_invariants(server, rig.provider.ledger)


async def test_a_slow_first_byte_is_no_silence_while_the_bound_allows_it(rig: Rig) -> None:
    rig.provider.script(rules=(Rule(when="hi", turns=(Turn(text="late", first_byte_ms=1000),)),))
    server = await rig.serve(env={"ROADWORTHY_IDLE_TIMEOUT": "5"})
    async with server.client() as client:
        answer = await client.post("/agent/invoke", json={"message": "hi"})
    assert answer.json()["response"] == "late"


async def test_pings_for_ever_end_by_the_runs_deadline_too(rig: Rig) -> None:
    rig.provider.script(rules=(Rule(when="hi", turns=(Turn(text="x", fault=Fault(kind="pings", at=0)),)),))
    server = await rig.serve(env={"REQUEST_TIMEOUT": "1.5"})
    async with server.client() as client:
        answer = await client.post("/agent/invoke", json={"message": "hi"})
        (gone,) = await rig.provider.wait_for_outcome("client_gone")
    assert (answer.status_code, answer.json()["code"]) == (504, "timeout")
    assert gone.client_gone_mono is not None


@pytest.mark.parametrize("stop_reason", ["refusal", "max_tokens", "model_context_window_exceeded"])
async def test_an_answer_that_stops_for_its_own_reason_leaves_the_thread_usable(rig: Rig, stop_reason: str) -> None:
    odd = Turn(text="I must stop here", stop_reason=stop_reason)  # pyright: ignore[reportArgumentType] -- parametrised
    rig.provider.script(rules=(Rule(when="hi", turns=(odd,)),))
    server = await rig.serve()
    async with server.client() as client:
        run = (await client.post("/agent/invoke", json={"message": "hi", "thread_id": "t"})).json()
        thread = (await client.get("/agent/threads/t")).json()
        after = await client.post("/agent/invoke", json={"message": "say: fine", "thread_id": "t"})
    assert (run["status"], run["response"]) == ("success", "I must stop here")
    assert thread["messages"][-1]["stop_reason"] == stop_reason
    assert after.json()["response"] == "fine"
    check_invariants(server, rig.provider.ledger)


@pytest.mark.parametrize(("status", "cause"), [(401, "key"), (404, "model")])
async def test_a_refused_key_or_model_is_not_retried_and_named(rig: Rig, status: int, cause: str) -> None:
    rig.provider.script(rules=(Rule(when="hi", turns=(Turn(fault=Fault(kind="error", status=status)),)),))
    server = await rig.serve("retrying.py:graph")
    async with server.client() as client:
        answer = await client.post("/agent/invoke", json={"message": "hi"})
        ready = await client.get("/readyz")
        health = (await client.get("/readyz")).json()
        well = await client.post("/agent/invoke", json={"message": "say: fine"})
        healed = (await client.get("/readyz")).json()
    assert (answer.status_code, answer.json()["code"]) == (502, "provider_unavailable")
    assert cause in answer.json()["detail"]
    assert len(rig.provider.ledger) == 2
    assert ready.status_code == 200
    assert cause in str(health["degraded"])
    assert well.json()["response"] == "fine"
    assert not healed.get("degraded")
