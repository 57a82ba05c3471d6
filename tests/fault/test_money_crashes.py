"""Kill -9 at each point of a model call that a budget applies to: no money stays held, no call is charged twice."""

import asyncio
import json
from collections.abc import Callable, Sequence

import httpx
import pytest

from tests.support.bill import TOLERANCE
from tests.support.invariants import check_invariants
from tests.support.provider.ledger import LedgerEntry
from tests.support.provider.prices import charged_nanos
from tests.support.provider.script import Hold, Rule, ToolUse, Turn
from tests.support.rig import NANOS, Rig
from tests.support.server import ServerProcess

ANSWER = Rule(when="pay", turns=(Turn(text="one two three four"),), pick="for_ever")
HELD = Turn(text="one two three four", hold=Hold(at=2))

# What is on record of each run afterwards. `passes`: how often the recovery of the run before goes by the point. The
# provider is asked once for each: an answer that came is in the journal before it is on record.
POINTS: Sequence[tuple[str, int, Sequence[str]]] = (
    ("before-reserve", 0, ["complete"]),
    ("after-reserve", 1, ["lost", "complete"]),
    ("before-append", 2, ["complete"]),
    ("before-finish", 1, ["complete"]),
    ("after-finish", 1, ["complete"]),
)


async def test_a_crash_around_a_call_leaves_nothing_held(rig: Rig) -> None:
    rig.provider.script(rules=(ANSWER,))
    server = await rig.serve(crash_at=POINTS[0][0])
    lost = 0
    async with server.client() as client:
        await rig.set_budget(client, NANOS)
        for number, (point, _, recorded) in enumerate(POINTS):
            calls = len(rig.provider.ledger)
            await _lost(client, f"pay for {point}")
            assert await server.exited() == -9
            rig.crash_mark.unlink()
            following = POINTS[number + 1] if number + 1 < len(POINTS) else ("after-append", 0)
            server.env |= {"CRASH_AT": following[0], "CRASH_SKIP": str(following[1])}
            await server.start()
            run = await rig.final(client, _runs(server)[-1])
            assert (run["status"], run["response"]) == ("success", "one two three four"), point
            assert _outcomes(server, run["run_id"]) == recorded, point
            assert len(rig.provider.ledger) - calls == 1, point
            lost += recorded.count("lost")
            check_invariants(server, rig.provider.ledger, in_flight=lost)
        await _recorded_at_the_crash(rig, client, lost)


async def _recorded_at_the_crash(rig: Rig, client: httpx.AsyncClient, lost: int) -> None:
    """The worker dies right behind the settlement. Whether the answer was in the state yet decides whether it is
    bought again; the call that is on record stays there, once.
    """
    server = rig.server
    calls = len(rig.provider.ledger)
    await _lost(client, "pay for after-append")
    assert await server.exited() == -9
    (before,) = server.rows("SELECT * FROM model_calls ORDER BY started_at DESC LIMIT 1")
    await server.start()
    run = await rig.final(client, before["run_id"])
    assert run["status"] == "success"
    assert _outcomes(server, run["run_id"]) == ["complete"] * (len(rig.provider.ledger) - calls)
    assert server.rows("SELECT * FROM model_calls WHERE call_id = ?", before["call_id"]) == [before]
    check_invariants(server, rig.provider.ledger, in_flight=lost)


@pytest.mark.parametrize(("point", "recorded"), [("before-append", 0), ("after-append", 1)])
async def test_a_call_in_flight_at_a_crash_is_charged_once_however_often_the_recovery_dies(
    rig: Rig, point: str, recorded: int
) -> None:
    rig.provider.script(rules=(Rule(when="pay", turns=(HELD,)), ANSWER))
    server = await rig.serve(crash_at=point)
    async with server.client() as client:
        await rig.set_budget(client, NANOS)
        await _kill_in_flight(rig, client, 1)
        (held,) = server.rows("SELECT * FROM reservations")
        await server.start(wait=False)
        assert await server.exited() == -9
        assert len(server.rows("SELECT * FROM model_calls")) == recorded
        assert len(server.rows("SELECT * FROM reservations")) == 1 - recorded
        await server.start()
        run = await rig.final(client, held["run_id"])
    assert (run["status"], run["attempt"], run["usage"]["estimated"]) == ("success", 3, True)
    (lost, _) = server.rows("SELECT * FROM model_calls ORDER BY started_at")
    assert (lost["call_id"], lost["outcome"], lost["attempt"]) == (held["call_id"], "lost", 1)
    assert _outcomes(server, run["run_id"]) == ["lost", "complete"]
    check_invariants(server, rig.provider.ledger, in_flight=1)


async def test_a_call_that_dies_in_the_middle_of_a_long_answer_costs_what_it_had_shown(rig: Rig) -> None:
    """The text of the call before it in the same run, which is longer, is not charged again."""
    before = Turn(text="more" * 400, tools=(ToolUse(name="note", args={"text": "x"}),))
    turns = (before, Turn(text="four" * 2_000, hold=Hold(at=300)), Turn(text="done"))
    rig.provider.script(rules=(Rule(when="pay", turns=turns),))
    server = await rig.serve()
    async with server.client() as client:
        await rig.set_budget(client, NANOS)
        async with asyncio.TaskGroup() as group:
            group.create_task(_lost(client, "pay"))
            await rig.provider.wait_for(lambda calls: len(calls) == 2 and calls[1].held)
            await rig.until(lambda: _shown(server) == (400 + 300) * 4)
            await server.kill()
        (held,) = server.rows("SELECT * FROM reservations")
        await rig.provider.wait_for_outcome("client_gone")
        await server.start()
        run = await rig.final(client, held["run_id"])
    cut = rig.provider.ledger[1]
    _, lost, _ = server.rows("SELECT * FROM model_calls ORDER BY started_at")
    assert (lost["call_id"], lost["outcome"], lost["estimated"]) == (held["call_id"], "lost", 1)
    assert lost["output_tokens"] == cut.output_tokens == 300
    assert lost["cost_nanos"] == pytest.approx(charged_nanos(cut), rel=TOLERANCE)
    assert (run["status"], run["usage"]["estimated"]) == ("success", True)
    check_invariants(server, rig.provider.ledger, in_flight=1)


async def test_a_call_that_dies_while_its_answer_streams_is_never_charged_for_what_was_not_said(rig: Rig) -> None:
    """What was shown last may not be in the log yet: then a lost call is too cheap, and never dear."""
    moments = (5, 60, 250)
    streaming = Turn(text="four" * 2_000, ms_per_token=4)
    rig.provider.script(rules=(Rule(when="pay", turns=(streaming, Turn(text="done")) * len(moments)),))
    server = await rig.serve()
    async with server.client() as client:
        await rig.set_budget(client, NANOS)
        for number, moment in enumerate(moments):
            asked = len(rig.provider.ledger)
            async with asyncio.TaskGroup() as group:
                group.create_task(_lost(client, "pay"))
                await rig.provider.wait_for(_has_said(asked, moment))
                await server.kill()
            (held,) = server.rows("SELECT * FROM reservations")
            await rig.provider.wait_for_outcome("client_gone", number + 1)
            await server.start()
            await rig.final(client, held["run_id"])
            (lost,) = server.rows("SELECT * FROM model_calls WHERE call_id = ?", held["call_id"])
            cut = rig.provider.ledger[asked]
            assert (lost["outcome"], lost["output_tokens"] <= cut.output_tokens) == ("lost", True)
            assert lost["input_tokens"] == pytest.approx(cut.input_tokens, rel=TOLERANCE)
            assert lost["cost_nanos"] <= (1 + TOLERANCE) * charged_nanos(cut)
            assert lost["cost_nanos"] < held["nanos"] / 5
    check_invariants(server, rig.provider.ledger, in_flight=len(moments))


async def test_runs_that_nobody_takes_up_again_leave_nothing_held(rig: Rig) -> None:
    """One is cancelled while the server is down, one while it waits to go on. Somebody else ended one, longer ago than
    the sweep waits.
    """
    rig.provider.script(rules=(Rule(when="pay", turns=(HELD,), pick="for_ever"),))
    server = await rig.serve()
    async with server.client() as client:
        await rig.set_budget(client, NANOS, scope="run")
        await _kill_in_flight(rig, client, 4)
        ended, cancelled, taken_up, waiting = _runs(server)
        code, _, err = await server.run_cli("runs", "cancel", cancelled)
        assert code == 0, err
        assert server.change("UPDATE runs SET status = 'cancelled' WHERE run_id = ?", ended) == 1
        aged = "UPDATE reservations SET started_at = started_at - 61000000 WHERE run_id = ?"
        assert server.change(aged, ended) == 1
        server.env |= {"MAX_CONCURRENT_REQUESTS": "1"}
        await server.start()
        await rig.provider.wait_for(lambda calls: calls[-1].held)
        for run_id in (waiting, taken_up):
            await client.post(f"/agent/runs/{run_id}/cancel")
            await rig.final(client, run_id)
        await rig.until(lambda: not server.rows("SELECT * FROM reservations"))
        runs = [await rig.final(client, run_id) for run_id in (cancelled, waiting, taken_up)]
    assert [(run["status"], run["usage"]["model_calls"], run["usage"]["estimated"]) for run in runs] == [
        ("cancelled", 1, True),
        ("cancelled", 1, True),
        ("cancelled", 2, True),
    ]
    outcomes = [_outcomes(server, run_id) for run_id in (ended, cancelled, waiting, taken_up)]
    assert outcomes == [["lost"], ["lost"], ["lost"], ["lost", "cancelled"]]
    assert _price_lists(server, ended) == ["reservation"]
    assert "reservation" not in [
        name for run_id in (cancelled, waiting, taken_up) for name in _price_lists(server, run_id)
    ]
    assert "reservations_swept" in server.logs
    check_invariants(server, rig.provider.ledger, in_flight=4)


async def _kill_in_flight(rig: Rig, client: httpx.AsyncClient, runs: int) -> None:
    """Kill the server while the provider answers so many runs."""
    async with asyncio.TaskGroup() as group:
        for number in range(runs):
            group.create_task(_lost(client, f"pay for {number}"))
        await rig.provider.wait_for(lambda calls: sum(call.held for call in calls) == runs)
        await rig.server.kill()
    await rig.provider.wait_for_outcome("client_gone", runs)


async def _lost(client: httpx.AsyncClient, message: str) -> None:
    """Send a request whose answer will never come."""
    with pytest.raises(httpx.TransportError):
        await client.post("/agent/invoke", json={"message": message, "on_disconnect": "continue"})


def _runs(server: ServerProcess) -> Sequence[str]:
    return [row["run_id"] for row in server.rows("SELECT run_id FROM runs ORDER BY seq")]


def _shown(server: ServerProcess) -> int:
    """The characters of text that are in the log."""
    rows = server.rows("SELECT body FROM events WHERE type = 'content'")
    return sum(len(json.loads(row["body"])["text"]) for row in rows)


def _has_said(asked: int, tokens: int) -> Callable[[Sequence[LedgerEntry]], bool]:
    """Whether the call behind `asked` others has put out so many tokens."""
    return lambda calls: len(calls) > asked and calls[asked].output_tokens >= tokens


def _price_lists(server: ServerProcess, run_id: str) -> Sequence[str]:
    return [row["price_version"] for row in server.rows("SELECT * FROM model_calls WHERE run_id = ?", run_id)]


def _outcomes(server: ServerProcess, run_id: str) -> Sequence[str]:
    rows = server.rows("SELECT outcome FROM model_calls WHERE run_id = ? ORDER BY started_at", run_id)
    return [row["outcome"] for row in rows]
