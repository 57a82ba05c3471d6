"""Which failed model calls cost nothing."""

import pytest

from roadworthy.runtimes.langgraph.provider_errors import was_refused


class ConnectError(Exception):
    """As HTTP clients call it."""


class APIConnectionError(Exception):
    """As SDKs call it."""


class APIStatusError(Exception):
    """With the status that the provider answered."""

    def __init__(self, status_code: int) -> None:
        super().__init__()
        self.status_code = status_code


def wrapped(cause: Exception) -> Exception:
    error, outer = APIConnectionError(), RuntimeError()
    error.__cause__, outer.__cause__ = cause, error
    return outer


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (APIStatusError(429), True),
        (APIStatusError(529), True),
        (APIStatusError(200), False),
        (wrapped(ConnectError()), True),
        (wrapped(ConnectionResetError()), False),
        (TimeoutError(), False),
    ],
)
def test_a_call_is_free_when_the_provider_refused_it_or_was_never_reached(error: Exception, refused: bool) -> None:
    assert was_refused(error) is refused
