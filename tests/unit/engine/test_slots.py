"""Slots are never over-given, and an isolated attempt is alone."""

from hypothesis import given
from hypothesis import strategies as st

from roadworthy.engine.slots import Slots


@given(st.integers(1, 4), st.lists(st.sampled_from(["take", "take isolated", "give back"]), max_size=40))
def test_any_order_of_takes_and_returns_keeps_the_bounds(capacity: int, steps: list[str]) -> None:
    slots = Slots(capacity)
    held: list[bool] = []
    for step in steps:
        if step == "give back":
            if held:
                held.pop()
                slots.give_back()
            continue
        isolated = step == "take isolated"
        expected = (not held) if isolated else (len(held) < capacity and not any(held))
        assert slots.take(isolated=isolated) == expected
        if expected:
            held.append(isolated)
        assert slots.held == len(held)


def test_all_slots_are_stuck_only_when_each_of_them_is() -> None:
    slots = Slots(2)
    slots.take()
    slots.take()
    slots.mark_stuck()
    assert not slots.all_stuck
    slots.mark_stuck()
    assert slots.all_stuck
    slots.unmark_stuck()
    assert not slots.all_stuck


def test_a_process_is_stuck_when_who_has_it_alone_is() -> None:
    slots = Slots(3)
    slots.take(isolated=True)
    assert not slots.all_stuck
    slots.mark_stuck()
    assert slots.all_stuck
    slots.unmark_stuck()
    slots.give_back()
    slots.take()
    slots.mark_stuck()
    assert not slots.all_stuck
