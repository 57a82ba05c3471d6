"""Whether an attempt may go on: what ends its work from the inside, between two calls, and leaves its state intact.

``metering`` asks it before each call and trips it; ``run`` tells the engine why it was tripped.
"""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import NoReturn

from langgraph.errors import GraphBubbleUp
from langgraph.runtime import RunControl

from roadworthy.domain.errors import RoadworthyError


class AttemptStopped(GraphBubbleUp):
    """Ends the graph's work at a call that it may not make. Passes retries and tools, leaves a clean checkpoint."""


class AttemptStop:
    """One attempt's. Safe from any thread."""

    def __init__(self) -> None:
        self.control = RunControl()
        self.reason: RoadworthyError | None = None
        self.closed = False

    def close(self) -> None:
        """No more calls: what threads of a given-up attempt still try to buy is refused."""
        self.closed = True

    def check(self) -> None:
        """Call before anything that costs.

        Raises:
            AttemptStopped: the attempt has ended, or is about to.
        """
        if self.reason is not None:
            raise AttemptStopped(self.reason.message)
        if self.closed:
            raise AttemptStopped("the attempt has ended")

    def trip(self, reason: RoadworthyError) -> NoReturn:
        """End the attempt. The first reason counts.

        Raises:
            AttemptStopped: always.
        """
        if self.reason is None:
            self.reason = reason
        # Should something in the graph swallow the exception, the run still ends before its next step.
        self.control.request_drain("limit")
        raise AttemptStopped(reason.message)


@contextmanager
def unreported_stops() -> Generator[None]:
    """While it is open, LangChain does not warn of a callback that raises AttemptStopped: it is meant to."""
    log = logging.getLogger("langchain_core.callbacks.manager")
    log.addFilter(_is_no_stop)
    try:
        yield
    finally:
        log.removeFilter(_is_no_stop)


def _is_no_stop(record: logging.LogRecord) -> bool:
    # "Error in %s.%s callback: %s", with the error's repr.
    said = record.args[-1] if isinstance(record.args, tuple) and record.args else None
    return not (isinstance(said, str) and said.startswith(f"{AttemptStopped.__name__}("))
