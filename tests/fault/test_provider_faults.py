"""What a model provider can do to a run (catalogue 29, 30, 32 to 35)."""

from tests.support.invariants import check_invariants
from tests.support.provider.script import Fault, FaultKind, Point, Rule, StopReason, ToolUse, Turn
from tests.support.rig import Rig
from tests.support.transcript import Transcript, stream

QUICK = {"ROADWORTHY_IDLE_TIMEOUT": "1.5"}
BREAKS: tuple[FaultKind, ...] = ("error", "cut", "reset", "garbage")


async def test_a_stream_that_breaks_ends_the_run_as_the_providers_fault(rig: Rig) -> None:
    cases: list[tuple[FaultKind, Point]] = [(kind, at) for kind in BREAKS for at in (0, 2, "end")]
    rig.provider.script(rules=tuple(_once(f"{kind} at {at}.", _broken(kind, at)) for kind, at in cases))
    server = await rig.serve()
    transcripts: list[Transcript] = []
    async with server.client() as client:
        for kind, at in cases:
            case = f"{kind} at {at}."
            transcript = await stream(client, {"message": case, "thread_id": f"{kind}-{at}"})
            run = (await client.get(f"/agent/runs/{transcript.run_id}")).json()
            after = {"message": "say: fine now", "thread_id": f"{kind}-{at}"}
            invoked = await client.post("/agent/invoke", json=after)
            assert (run["status"], run["error"]["code"]) == ("error", "provider_unavailable"), (case, run)
            assert [frame["type"] for frame in transcript.frames[-2:]] == ["error", "done"], case
            assert transcript.text() == "", case
            assert run["usage"]["model_calls"] == 1, case
            assert invoked.json()["response"] == "fine now", (case, "the thread must stay usable")
            transcripts.append(transcript)
    check_invariants(server, rig.provider.ledger, transcripts=transcripts)


async def test_a_tool_is_never_run_from_an_unterminated_message(rig: Rig) -> None:
    cut_off = ToolUse(name="note", args={"text": "a long argument that is cut"})
    rules = [_once(f"{kind}.", Turn(tools=(cut_off,), fault=Fault(kind=kind, at="tool_json"))) for kind in BREAKS]
    rig.provider.script(rules=tuple(rules))
    server = await rig.serve()
    async with server.client() as client:
        for kind in BREAKS:
            answer = await client.post("/agent/invoke", json={"message": f"{kind}."})
            assert (answer.status_code, answer.json()["code"]) == (502, "provider_unavailable"), (kind, answer.text)
    assert rig.effects.read() == ()
    check_invariants(server, rig.provider.ledger)


async def test_an_agent_with_retry_gives_one_answer_after_retractions(rig: Rig) -> None:
    right = Turn(text="right words")
    rules = [Rule(when=f"{kind}.", turns=(_broken(kind, 2), _broken(kind, 2), right)) for kind in BREAKS]
    rig.provider.script(rules=tuple(rules))
    server = await rig.serve("retrying.py:graph")
    transcripts: list[Transcript] = []
    async with server.client() as client:
        for kind in BREAKS:
            transcript = await stream(client, {"message": f"{kind}."})
            run = (await client.get(f"/agent/runs/{transcript.run_id}")).json()
            assert (run["status"], run["response"]) == ("success", "right words"), (kind, run)
            assert transcript.text() == "right words", kind
            # A reset may overtake the words before it: what was shown is retracted, whatever that was.
            shown = {frame["message_id"] for frame in transcript.of_type("content")}
            retracted = {frame["message_id"] for frame in transcript.of_type("retract")}
            assert len(shown - retracted) == 1, kind
            assert len(retracted) == 2 or kind == "reset", kind
            assert run["usage"]["model_calls"] == 3, kind
            transcripts.append(transcript)
    assert len(rig.provider.ledger) == 3 * len(BREAKS)
    check_invariants(server, rig.provider.ledger, transcripts=transcripts)


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
    rig.provider.script(
        rules=(Rule(when="hi", turns=(Turn(fault=Fault(kind="error", status=429, retry_after=3600)),)),)
    )
    server = await rig.serve("retrying.py:graph", env={"REQUEST_TIMEOUT": "20"})
    async with server.client() as client:
        answer = await client.post("/agent/invoke", json={"message": "hi"})
    assert (answer.status_code, answer.json()["code"]) == (502, "provider_unavailable")
    assert len(rig.provider.ledger) == 1
    check_invariants(server, rig.provider.ledger)


async def test_silence_and_pings_end_by_the_idle_bound_and_are_billed_by_estimate(rig: Rig) -> None:
    cases: list[tuple[FaultKind, Point]] = [(kind, at) for kind in ("silence", "pings") for at in ("first_byte", 2)]
    rig.provider.script(rules=tuple(_once(f"{kind} at {at}.", _broken(kind, at)) for kind, at in cases))
    server = await rig.serve(env=QUICK)
    async with server.client() as client:
        for number, (kind, at) in enumerate(cases, 1):
            case = f"{kind} at {at}."
            answer = await client.post("/agent/invoke", json={"message": case, "thread_id": f"{kind}-{at}"})
            await rig.provider.wait_for_outcome("client_gone", number)
            run = answer.json()["run"]
            after = {"message": "say: fine", "thread_id": f"{kind}-{at}"}
            assert (await client.post("/agent/invoke", json=after)).json()["response"] == "fine", case
            assert (answer.status_code, run["status"]) == (504, "timeout"), (case, answer.text)
            assert run["usage"]["estimated"] is True, case
            assert run["usage"]["input_tokens"] > 0, case
    check_invariants(server, rig.provider.ledger)


async def test_a_slow_first_byte_is_no_silence_while_the_bound_allows_it(rig: Rig) -> None:
    rig.provider.script(rules=(Rule(when="hi", turns=(Turn(text="late", first_byte_ms=1000),)),))
    server = await rig.serve(env={"ROADWORTHY_IDLE_TIMEOUT": "5"})
    async with server.client() as client:
        answer = await client.post("/agent/invoke", json={"message": "hi"})
    assert answer.json()["response"] == "late"
    check_invariants(server, rig.provider.ledger)


async def test_pings_for_ever_end_by_the_runs_deadline_too(rig: Rig) -> None:
    rig.provider.script(rules=(Rule(when="hi", turns=(Turn(text="x", fault=Fault(kind="pings", at=0)),)),))
    server = await rig.serve(env={"REQUEST_TIMEOUT": "1.5"})
    async with server.client() as client:
        answer = await client.post("/agent/invoke", json={"message": "hi"})
        (gone,) = await rig.provider.wait_for_outcome("client_gone")
    assert (answer.status_code, answer.json()["code"]) == (504, "timeout")
    assert gone.client_gone_mono is not None
    check_invariants(server, rig.provider.ledger)


async def test_an_answer_that_stops_for_its_own_reason_leaves_the_thread_usable(rig: Rig) -> None:
    reasons: tuple[StopReason, ...] = ("refusal", "max_tokens", "model_context_window_exceeded")
    rig.provider.script(
        rules=tuple(_once(f"{reason}.", Turn(text="I must stop here", stop_reason=reason)) for reason in reasons)
    )
    server = await rig.serve()
    async with server.client() as client:
        for reason in reasons:
            run = (await client.post("/agent/invoke", json={"message": f"{reason}.", "thread_id": reason})).json()
            thread = (await client.get(f"/agent/threads/{reason}")).json()
            after = await client.post("/agent/invoke", json={"message": "say: fine", "thread_id": reason})
            assert (run["status"], run["response"]) == ("success", "I must stop here"), reason
            assert thread["messages"][-1]["stop_reason"] == reason
            assert after.json()["response"] == "fine", reason
    check_invariants(server, rig.provider.ledger)


async def test_a_refused_key_or_model_is_not_retried_and_named(rig: Rig) -> None:
    causes = {401: "key", 404: "model"}
    rig.provider.script(
        rules=tuple(_once(f"{status}.", Turn(fault=Fault(kind="error", status=status))) for status in causes)
    )
    server = await rig.serve("retrying.py:graph")
    async with server.client() as client:
        for status, cause in causes.items():
            calls = len(rig.provider.ledger)
            answer = await client.post("/agent/invoke", json={"message": f"{status}."})
            assert (answer.status_code, answer.json()["code"]) == (502, "provider_unavailable"), answer.text
            assert cause in answer.json()["detail"]
            assert len(rig.provider.ledger) == calls + 1
            ready = await client.get("/readyz")
            assert ready.status_code == 200
            assert cause in str(ready.json()["degraded"])
            well = await client.post("/agent/invoke", json={"message": "say: fine"})
            assert well.json()["response"] == "fine"
            assert not (await client.get("/readyz")).json().get("degraded")
    check_invariants(server, rig.provider.ledger)


def _broken(kind: FaultKind, at: Point) -> Turn:
    return Turn(text="one two three", fault=Fault(kind=kind, at=at))


def _once(when: str, turn: Turn) -> Rule:
    return Rule(when=when, turns=(turn,))
