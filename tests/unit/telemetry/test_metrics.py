"""What is counted, under which names and labels."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from roadworthy.domain.errors import BudgetExceeded, LimitReached, QueueFull, RateLimited
from roadworthy.domain.load import Load
from roadworthy.domain.run import RunError, RunStatus
from roadworthy.domain.usage import ModelCall, Tokens
from roadworthy.telemetry.loop_lag import measure_loop_lag
from roadworthy.telemetry.metrics import MAX_MODELS, Metrics
from tests.unit.telemetry.test_run_log import RUN, T0

CALL = ModelCall(
    call_id="c",
    node="model",
    provider="anthropic",
    model="claude",
    tokens=Tokens(input=100, output=20, cache_read=60, cache_write=10, reasoning=5),
    estimated=False,
    outcome="complete",
    started_at=T0,
    finished_at=T0 + timedelta(seconds=3),
    cost_nanos=4_200_000,
)
WHO = {"provider": "anthropic", "model": "claude"}


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("1.2.3")


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"roadworthy_{name}", labels)


def samples(metrics: Metrics) -> Iterator[tuple[str, dict[str, str]]]:
    text, _ = metrics.expose("application/openmetrics-text; version=1.0.0")
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            yield sample.name, sample.labels


def test_a_run_is_counted_by_its_outcome_with_its_times(metrics: Metrics) -> None:
    metrics.run_finished(RUN)
    failed = replace(RUN.result, error=RunError(code="timeout", message="late"), first_token_at=None)
    metrics.run_finished(replace(RUN, status=RunStatus.TIMEOUT, result=failed))
    assert value(metrics, "runs_total", agent="demo", status="success", code="") == 1
    assert value(metrics, "runs_total", agent="demo", status="timeout", code="timeout") == 1
    assert value(metrics, "run_duration_seconds_sum", agent="demo", status="success") == pytest.approx(1.5)
    assert value(metrics, "run_queue_seconds_sum") == pytest.approx(0.08)
    assert value(metrics, "run_first_token_seconds_count", agent="demo") == 1
    assert value(metrics, "run_first_token_seconds_sum", agent="demo") == pytest.approx(0.34)


def test_a_run_that_never_started_waited_until_its_end(metrics: Metrics) -> None:
    metrics.run_finished(replace(RUN, status=RunStatus.CANCELLED, started_at=None))
    assert value(metrics, "run_queue_seconds_sum") == pytest.approx(1.54)
    assert value(metrics, "run_duration_seconds_count", agent="demo", status="cancelled") == 0


def test_a_model_call_is_counted_with_tokens_cost_and_time(metrics: Metrics) -> None:
    metrics.model_call(CALL)
    assert value(metrics, "model_calls_total", **WHO, outcome="complete") == 1
    assert value(metrics, "model_call_duration_seconds_sum", **WHO) == 3
    kinds = ("input", "output", "cache_read", "cache_write", "reasoning")
    assert [value(metrics, "tokens_total", **WHO, kind=kind) for kind in kinds] == [100, 20, 60, 10, 5]
    assert value(metrics, "cost_usd_total", **WHO) == pytest.approx(0.0042)
    for name in ("unpriced", "estimated", "unjournalled", "unjudged", "replayed"):
        assert value(metrics, f"model_calls_{name}_total", **WHO) is None


def test_what_is_wrong_with_a_call_is_counted(metrics: Metrics) -> None:
    metrics.model_call(replace(CALL, cost_nanos=None, estimated=True, journalled=False, judged=False, outcome="cut"))
    metrics.model_call_replayed(CALL)
    assert value(metrics, "model_calls_total", **WHO, outcome="cut") == 1
    for name in ("unpriced", "estimated", "unjournalled", "unjudged", "replayed"):
        assert value(metrics, f"model_calls_{name}_total", **WHO) == 1
    assert value(metrics, "cost_usd_total", **WHO) is None


def test_models_without_end_do_not_fill_the_memory(metrics: Metrics) -> None:
    for number in range(MAX_MODELS + 20):
        metrics.model_call(replace(CALL, model=f"m{number}"))
    metrics.model_call(replace(CALL, model="m0"))
    assert value(metrics, "model_calls_total", provider="anthropic", model="m0", outcome="complete") == 2
    assert value(metrics, "model_calls_total", provider="other", model="other", outcome="complete") == 20


def test_limits_are_counted_where_they_refused(metrics: Metrics) -> None:
    for refusal in (RateLimited("slow down"), QueueFull("full"), BudgetExceeded("spent")):
        metrics.refused(refusal)
    metrics.attempt_failed(RUN, BudgetExceeded("spent"))
    metrics.attempt_failed(RUN, LimitReached("enough"))
    metrics.attempt_failed(RUN, ValueError("a bug"))
    found = {
        (labels["limit"], labels["at"]) for name, labels in samples(metrics) if name == "roadworthy_limits_hit_total"
    }
    assert found == {
        ("rate_limited", "admission"),
        ("queue_full", "admission"),
        ("budget_exceeded", "admission"),
        ("budget_exceeded", "run"),
        ("limit_reached", "run"),
    }


def test_notes_are_counted_and_some_have_a_name_of_their_own(metrics: Metrics) -> None:
    metrics.worker_note("budget_soft_limit", tenant="acme", scope="user", window="day", subject="ann")
    metrics.worker_note("lease_lost", run_id="r")
    metrics.worker_note("write_retried", run_id="r")
    assert value(metrics, "budget_soft_limits_total", scope="user", window="day") == 1
    assert value(metrics, "leases_lost_total") == 1
    for event in ("budget_soft_limit", "lease_lost", "write_retried"):
        assert value(metrics, "notes_total", event=event) == 1


def test_load_is_shown_as_it_is_when_asked(metrics: Metrics) -> None:
    load = Load(slots=10, held=3, stuck=1, waiting=7)
    metrics.watch(lambda: load)
    assert (value(metrics, "slots"), value(metrics, "slots_held")) == (10, 3)
    assert (value(metrics, "slots_stuck"), value(metrics, "runs_waiting")) == (1, 7)
    load = replace(load, held=0)
    assert value(metrics, "slots_held") == 0


def test_the_web_side_is_counted(metrics: Metrics) -> None:
    metrics.response_started("GET", 200)
    metrics.response_started("GET", 200)
    metrics.response_started("BREW", 405)
    metrics.stream_opened()
    metrics.stream_opened()
    metrics.stream_closed()
    assert value(metrics, "http_responses_total", method="GET", status="200") == 2
    assert value(metrics, "http_responses_total", method="other", status="405") == 1
    assert value(metrics, "open_streams") == 1


async def test_the_lag_of_the_loop_is_measured(metrics: Metrics) -> None:
    told = asyncio.Event()

    def hear(late: timedelta) -> None:
        metrics.loop_lag(late)
        told.set()

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        task = group.create_task(measure_loop_lag(hear, every=timedelta(milliseconds=1)))
        await told.wait()
        task.cancel()
    assert value(metrics, "event_loop_lag_seconds_count") == 1


def test_no_label_names_a_user_a_tenant_or_a_thread(metrics: Metrics) -> None:
    metrics.run_finished(RUN)
    metrics.model_call(CALL)
    metrics.worker_note("budget_soft_limit", tenant="acme", scope="user", window="day", subject="ann")
    text, media_type = metrics.expose("")
    assert media_type.startswith("text/plain")
    assert {name for _, labels in samples(metrics) for name in labels} <= {
        *("agent", "status", "code", "provider", "model", "outcome", "kind", "limit", "at", "scope", "window"),
        *("event", "method", "le", "version", "generation", "implementation", "major", "minor", "patchlevel"),
    }
    for private in (RUN.owner.user, RUN.owner.tenant, RUN.thread_id, RUN.run_id):
        assert f'"{private}"' not in text.decode()
