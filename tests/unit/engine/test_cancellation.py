"""Reasons to stop: which one stays, and who hears of it."""

import pytest

from roadworthy.domain.ids import RunId
from roadworthy.domain.run import CancelReason
from roadworthy.engine.cancellation import Handover, StopReason, StopSignal, StopSignals

RUN, OTHER = RunId("run"), RunId("other")


@pytest.mark.parametrize(
    ("reasons", "stays"),
    [
        ([CancelReason.REQUESTED, CancelReason.SUPERSEDED], CancelReason.REQUESTED),
        ([Handover.DRAIN, CancelReason.REQUESTED], CancelReason.REQUESTED),
        ([CancelReason.SUPERSEDED, Handover.DRAIN], CancelReason.SUPERSEDED),
        ([Handover.DRAIN, Handover.DRAIN], Handover.DRAIN),
        ([CancelReason.REQUESTED, Handover.LOST], Handover.LOST),
        ([Handover.LOST, CancelReason.REQUESTED, Handover.DRAIN], Handover.LOST),
    ],
)
async def test_the_first_reason_stays_but_a_cancel_outranks_a_drain_and_nothing_a_loss(
    reasons: list[StopReason], stays: StopReason
) -> None:
    signal = StopSignal()
    assert not signal.raised.done()
    for reason in reasons:
        signal.stop(reason)
    assert signal.reason is stays
    assert signal.raised.done()


async def test_a_signal_reaches_its_own_run_while_it_is_open() -> None:
    signals = StopSignals()
    mine, other = signals.open(RUN), signals.open(OTHER)
    assert signals.stop(RUN, CancelReason.REQUESTED)
    assert (mine.reason, other.reason) == (CancelReason.REQUESTED, None)
    signals.close(RUN, other)
    assert signals.stop(RUN, CancelReason.REQUESTED)
    signals.close(RUN, mine)
    signals.close(RUN, mine)
    assert not signals.stop(RUN, CancelReason.REQUESTED)
    assert signals.run_ids == {OTHER}


async def test_all_are_stopped_at_once() -> None:
    signals = StopSignals()
    both = [signals.open(RUN), signals.open(OTHER)]
    signals.stop_all(Handover.DRAIN)
    assert [signal.reason for signal in both] == [Handover.DRAIN] * 2
