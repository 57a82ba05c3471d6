"""What a lost call is charged: its input and the text that it had shown, however the pieces of the log lie."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import cast

import pytest

from roadworthy.domain.budget import Budget, BudgetBalance, BudgetPeriod, InFlight, Reservation
from roadworthy.domain.errors import BudgetExceeded
from roadworthy.domain.event import (
    ContentDelta,
    ContentRetracted,
    Event,
    EventId,
    RunEvent,
    ToolCallStarted,
    UsageReported,
)
from roadworthy.domain.ids import RunId
from roadworthy.domain.principal import Owner
from roadworthy.domain.run import Run
from roadworthy.domain.usage import ModelCall, Tokens, Usage
from roadworthy.engine.losses import calls_so_far, lost_calls
from roadworthy.engine.metering import Meter
from roadworthy.engine.spending import AttemptSpending, open_spending
from roadworthy.ports.runtime import AgentRuntime
from roadworthy.ports.telemetry import Telemetry
from roadworthy.runtimes.scripted import ScriptedRuntime
from roadworthy.storage.rates import MemoryRateCounters
from tests.support.money import UNKNOWN_MODEL, a_budget
from tests.support.spending import RUN, TellingLedger, a_purse, planned

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def in_flight(name: str, *, attempt: int = 1, node: str = "model", model: str = "m") -> InFlight:
    return InFlight(
        attempt=attempt,
        reservation=Reservation(
            call_id=name,
            node=node,
            provider="p",
            model=model,
            input_tokens=7,
            output_tokens=4096,
            nanos=5_000,
            started_at=NOW,
        ),
    )


def ended(name: str, *, message_id: str = "", node: str = "model") -> ModelCall:
    return ModelCall(
        call_id=name,
        node=node,
        provider="p",
        model="m",
        tokens=Tokens(input=3, output=2),
        estimated=False,
        outcome="complete",
        started_at=NOW,
        finished_at=NOW,
        message_id=message_id,
    )


def text(message_id: str, chars: int, *, node: str = "model") -> ContentDelta:
    return ContentDelta(message_id=message_id, text="x" * chars, node=node)


def usage(call: ModelCall) -> UsageReported:
    return UsageReported(call=call, total=Usage())


def log(*attempts: Sequence[RunEvent]) -> list[Event]:
    return [
        Event(id=EventId(1, attempt, n), body=body)
        for attempt, bodies in enumerate(attempts, 1)
        for n, body in enumerate(bodies, 1)
    ]


def outputs(calls: Sequence[ModelCall]) -> dict[str, int]:
    return {call.call_id: call.tokens.output for call in calls}


def test_a_lost_call_is_an_estimate_of_its_input_and_of_what_it_had_shown() -> None:
    (lost,) = lost_calls([in_flight("a")], log([text("m", 6), text("m", 3)]), [])
    assert lost == ModelCall(
        call_id="a",
        node="model",
        provider="p",
        model="m",
        tokens=Tokens(input=7, output=3),
        estimated=True,
        outcome="lost",
        started_at=NOW,
        finished_at=NOW,
        cost_nanos=5_000,
        price_version="reservation",
    )


def test_a_call_that_has_shown_nothing_costs_its_input() -> None:
    assert outputs(lost_calls([in_flight("a")], log([text("m", 40, node="other")]), [])) == {"a": 0}


def test_retracted_text_was_paid_for() -> None:
    seen = log([text("m", 40), ContentRetracted(message_id="m")])
    assert outputs(lost_calls([in_flight("a")], seen, [])) == {"a": 10}


def test_text_of_calls_that_have_ended_is_not_counted_twice() -> None:
    seen, done = log([text("m1", 400), text("m2", 40)]), ended("done", message_id="m1")
    assert outputs(lost_calls([in_flight("a")], seen, [done])) == {"a": 10}
    assert outputs(lost_calls([in_flight("a")], seen[:1], [done])) == {"a": 0}


def test_text_of_a_call_on_the_ledger_is_not_counted_twice_when_the_log_has_not_heard_of_its_end() -> None:
    seen = log([text("lc_run--done", 400)])
    assert outputs(lost_calls([in_flight("a")], seen, [ended("done")])) == {"a": 0}


def test_a_call_whose_end_somebody_knows_is_as_he_says() -> None:
    known = replace(ended("a", message_id="m"), cost_nanos=5, price_version="flat", journalled=False)
    assert lost_calls([in_flight("a")], log([text("m", 40)]), [known]) == [known]


def test_ids_tell_parallel_calls_of_a_node_apart() -> None:
    seen = log([text("lc_run--b", 8), text("lc_run--a", 40), text("lc_run--b", 12)])
    lost = lost_calls([in_flight("a"), in_flight("b"), in_flight("c")], seen, [])
    assert outputs(lost) == {"a": 10, "b": 5, "c": 0}


def test_without_such_ids_messages_go_to_the_calls_of_their_node_in_order() -> None:
    seen = log([text("m1", 4), text("m3", 100, node="other"), text("m2", 40)])
    lost = lost_calls([in_flight("a"), in_flight("z", node="other"), in_flight("b"), in_flight("c")], seen, [])
    assert outputs(lost) == {"a": 1, "z": 25, "b": 10, "c": 0}


def test_of_more_messages_than_calls_the_latest_count() -> None:
    """The others were shown whole, as an answer of another run that was played again."""
    assert outputs(lost_calls([in_flight("a")], log([text("m1", 400), text("m2", 40)]), [])) == {"a": 10}


def test_text_counts_for_calls_of_its_own_attempt() -> None:
    seen = log([text("m", 4)], [ToolCallStarted(id="t", name="t", args={}), text("m", 40)], [text("m", 400)])
    lost = lost_calls([in_flight("a"), in_flight("b", attempt=2)], seen, [])
    assert outputs(lost) == {"a": 1, "b": 10}


class LosingLedger(TellingLedger):
    """Holds money for calls of dead attempts; notes what is appended."""

    def __init__(self, *held: InFlight, recorded: Sequence[ModelCall] = ()) -> None:
        super().__init__()
        self.held = held
        self.recorded = recorded
        self.appended: list[ModelCall] = []
        self.charged: dict[str, Sequence[BudgetPeriod]] = {}

    async def in_flight(self, run: Run) -> Sequence[InFlight]:
        assert run.attempt == 2
        return self.held

    async def of_run(self, owner: Owner, run_id: RunId) -> Sequence[ModelCall]:
        return self.recorded

    async def append(
        self, run: Run, calls: Sequence[ModelCall], charges: Mapping[str, Sequence[BudgetPeriod]]
    ) -> Sequence[BudgetBalance]:
        self.appended.extend(calls)
        self.charged |= charges
        return ()


async def recover(
    ledger: LosingLedger, *budgets: Budget, seen: Sequence[Event] = (), runtime: AgentRuntime | None = None
) -> tuple[Sequence[ModelCall], AttemptSpending]:
    """The second attempt's beginning."""
    run = replace(RUN, attempt=2)
    spending = await open_spending(run, a_purse(ledger, *budgets))
    meter = Meter(
        run, None, spending=spending, ledger=ledger, rates=MemoryRateCounters(), telemetry=cast("Telemetry", None)
    )
    calls = await calls_so_far(
        run, seen, ledger=ledger, runtime=runtime or ScriptedRuntime(), spending=spending, meter=meter
    )
    await meter.flush()
    return calls, spending


async def test_lost_calls_are_priced_and_charged_to_the_budgets_that_there_are() -> None:
    ledger, budget = LosingLedger(in_flight("a"), recorded=[ended("done")]), a_budget(1_000)
    calls, spending = await recover(ledger, budget, seen=log([text("m", 40)]))
    assert [(call.call_id, call.outcome) for call in calls] == [("done", "complete"), ("a", "lost")]
    (lost,) = ledger.appended
    assert lost == calls[1]
    assert (lost.cost_nanos, lost.price_version) == (7 + 10, "flat")
    assert ledger.charged == {"a": [budget.period_of("acme", NOW)]}
    assert not spending.holding


async def test_calls_whose_end_is_in_the_log_or_with_the_runtime_are_no_estimates() -> None:
    ledger, runtime = LosingLedger(in_flight("told"), in_flight("kept"), in_flight("lost")), ScriptedRuntime()
    runtime.answered[RUN.run_id] = [ended("kept", message_id="k")]
    seen = log([text("k", 80), text("t", 80), usage(ended("told", message_id="t")), text("m", 40)])
    await recover(ledger, a_budget(1_000), seen=seen, runtime=runtime)
    assert [(call.call_id, call.outcome, call.tokens.total) for call in ledger.appended] == [
        ("told", "complete", 5),
        ("kept", "complete", 5),
        ("lost", "lost", 7 + 10),
    ]


async def test_an_answer_that_the_ledger_never_heard_of_is_billed_without_a_budget_too() -> None:
    ledger, runtime = LosingLedger(recorded=[ended("done")]), ScriptedRuntime()
    runtime.answered[RUN.run_id] = [ended("done"), ended("kept")]
    calls, _ = await recover(ledger, runtime=runtime)
    assert [call.call_id for call in ledger.appended] == ["kept"]
    assert [call.call_id for call in calls] == ["done", "kept"]


async def test_calls_that_cannot_wait_know_of_what_was_lost() -> None:
    _, spending = await recover(LosingLedger(in_flight("a")), a_budget(7))
    with pytest.raises(BudgetExceeded):
        spending.admit(planned())


async def test_lost_calls_free_what_they_hold_though_no_budget_fits_any_more() -> None:
    ledger = LosingLedger(in_flight("a"))
    _, spending = await recover(ledger)
    assert ledger.charged == {"a": []}
    assert not spending.holding


async def test_a_lost_call_whose_price_nobody_knows_any_more_costs_what_was_reserved() -> None:
    ledger = LosingLedger(in_flight("a", model=UNKNOWN_MODEL))
    await recover(ledger, a_budget(None, soft_nanos=1))
    assert [(call.cost_nanos, call.price_version) for call in ledger.appended] == [(5_000, "reservation")]


async def test_a_lost_call_that_is_on_record_is_counted_once_and_freed() -> None:
    ledger = LosingLedger(in_flight("a"), recorded=[ended("a")])
    calls, _ = await recover(ledger)
    assert calls == [ended("a")]
    assert list(ledger.charged) == ["a"]


async def test_where_nothing_was_in_flight_nothing_is_written() -> None:
    ledger = LosingLedger(recorded=[ended("done")])
    calls, spending = await recover(ledger, a_budget(1_000), seen=log([text("m", 40)]))
    assert calls == [ended("done")]
    assert ledger.appended == []
    assert not spending.holding
