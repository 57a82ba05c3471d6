"""The run's status machine, against every pair of statuses and any walk through it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadworthy.domain.errors import InvalidTransition
from roadworthy.domain.ids import AgentName, RunId, TenantId, ThreadId, UserId
from roadworthy.domain.principal import Owner
from roadworthy.domain.run import TRANSITIONS, InputKind, Run, RunRequest, RunStatus

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RUN = Run(
    run_id=RunId("0" * 32),
    owner=Owner(tenant=TenantId("t"), user=UserId("u")),
    thread_id=ThreadId("x"),
    ord=1,
    agent=AgentName("a"),
    request=RunRequest(kind=InputKind.INPUT, payload=None),
    request_id="r",
    key_id=None,
    status=RunStatus.PENDING,
    created_at=NOW,
    deadline_at=NOW + timedelta(seconds=1),
)


@given(st.lists(st.sampled_from(RunStatus), max_size=12))
def test_any_walk_keeps_to_the_table_and_stops_at_a_final_status(wishes: list[RunStatus]) -> None:
    run = RUN
    for wish in wishes:
        allowed = wish in TRANSITIONS[run.status]
        assert not (run.status.final and allowed)
        if allowed:
            run = run.moved(wish)
            assert run.status is wish
        else:
            with pytest.raises(InvalidTransition):
                run.moved(wish)


@pytest.mark.parametrize("status", RunStatus)
def test_a_status_is_final_exactly_when_nothing_follows_it(status: RunStatus) -> None:
    assert status.final == (not TRANSITIONS[status])


@pytest.mark.parametrize("status", RunStatus)
def test_every_final_status_can_be_reached_from_a_running_run(status: RunStatus) -> None:
    running = replace(RUN, status=RunStatus.RUNNING)
    if status is not RunStatus.RUNNING:
        assert running.moved(status).status is status
