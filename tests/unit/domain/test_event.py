"""Event ids: their order is the thread's order, and their text form is exact."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadworthy.domain.event import EventId

numbers = st.integers(0, 999_999_999)
ids = st.builds(EventId, ord=numbers, attempt=numbers, n=numbers)


@given(ids)
def test_an_id_survives_its_text_form(event_id: EventId) -> None:
    assert EventId.parse(str(event_id)) == event_id


@given(ids, ids)
def test_order_is_run_then_attempt_then_number(first: EventId, second: EventId) -> None:
    assert (first < second) == (tuple(first) < tuple(second))


@pytest.mark.parametrize(
    "text", ["", "1-1", "1-1-1-1", "a-1-1", "-1-1-1", "1-1-1 ", "1-1-9999999999", "1-1-\n1", "²-1-1"]
)
def test_anything_else_is_no_id(text: str) -> None:
    assert EventId.parse(text) is None
