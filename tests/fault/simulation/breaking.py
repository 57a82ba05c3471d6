"""Rules of the program, each broken by itself, so that it can be seen that histories find it."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from roadworthy.engine import fleet
from roadworthy.engine.cancellation import StopSignals
from roadworthy.engine.leases import LeaseKeeper
from roadworthy.engine.metering import Meter
from roadworthy.engine.worker import Worker
from roadworthy.storage import ledger_statements, statements
from roadworthy.storage import postgres_statements as leased
from roadworthy.storage.accept import Acceptance
from tests.fault.simulation.database import LeasedText

Break = Callable[[LeasedText, pytest.MonkeyPatch], None]

_OF_ATTEMPT = " AND runs.attempt = :attempt_was"
_LAPSED = "coalesce(runs.lease_until, 0) <= database_now()"


def _a_lost_attempt_may_finish(text: LeasedText, patch: pytest.MonkeyPatch) -> None:
    text.reword(statements.FINISH_RUN, _OF_ATTEMPT, "")


def _a_lost_attempt_may_give_back(text: LeasedText, patch: pytest.MonkeyPatch) -> None:
    text.reword(statements.RELEASE_RUN, _OF_ATTEMPT, "")


def _leases_are_not_looked_at(text: LeasedText, patch: pytest.MonkeyPatch) -> None:
    text.reword(statements.ORPHANS, _LAPSED, "1")
    text.reword(statements.REAP_RUN, _LAPSED, "1")


def _leases_are_not_renewed(text: LeasedText, patch: pytest.MonkeyPatch) -> None:
    text.reword(leased.RENEW_LEASES, "(database_now() + :lease)", "(lease_until + 0 * :lease)")


def _who_cannot_renew_goes_on(text: LeasedText, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LeaseKeeper, "_look", _nothing)


def _who_has_lost_is_not_told(text: LeasedText, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Worker, "lost", _nothing)


def _nobody_reaps(text: LeasedText, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fleet, "keep_reaping", _nothing_at_all)


def _an_unknown_claim_is_kept(text: LeasedText, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Worker, "found", _nothing)


def _late_events_are_stored(text: LeasedText, patch: pytest.MonkeyPatch) -> None:
    text.reword(statements.LOCK_ATTEMPT, " AND runs.attempt = :attempt", " AND :attempt > 0")


def _a_run_may_jump_the_line(text: LeasedText, patch: pytest.MonkeyPatch) -> None:
    text.reword(statements.ENTER_THREAD, "threads.pending = 0", "1")


def _keys_are_not_looked_up(text: LeasedText, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Acceptance, "_known", _nothing)


def _calls_of_a_loser_are_forgotten(text: LeasedText, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Meter, "flush", _nothing_at_all)


def _lost_calls_are_not_settled(text: LeasedText, patch: pytest.MonkeyPatch) -> None:
    text.reword(ledger_statements.EARLIER, "reservations.attempt < :attempt", ":attempt < 0")
    text.reword(ledger_statements.LOSE_ABANDONED, "reservations.started_at < :before", ":before < 0")


def _cancels_are_lost(text: LeasedText, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(StopSignals, "close", _nothing)


def _nothing(*_: Any, **__: Any) -> None:
    return None


async def _nothing_at_all(*_: Any, **__: Any) -> None:
    return None


def _named(*rules: Break) -> Mapping[str, Break]:
    return {getattr(rule, "__name__", "")[1:]: rule for rule in rules}


# Seen within a few histories.
PLAIN = _named(
    _a_lost_attempt_may_finish,
    _leases_are_not_looked_at,
    _leases_are_not_renewed,
    _who_cannot_renew_goes_on,
    _who_has_lost_is_not_told,
    _nobody_reaps,
    _an_unknown_claim_is_kept,
    _late_events_are_stored,
    _keys_are_not_looked_up,
    _lost_calls_are_not_settled,
    _cancels_are_lost,
)
# Seen only when several things come together.
SUBTLE = _named(_a_lost_attempt_may_give_back, _a_run_may_jump_the_line, _calls_of_a_loser_are_forgotten)
