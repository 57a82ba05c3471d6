"""Several listeners for what engine and services tell. Adapter of ``ports.telemetry``, made by ``cli/running.py``."""

from roadworthy.domain.errors import LimitExceeded
from roadworthy.domain.run import Run
from roadworthy.domain.usage import ModelCall
from roadworthy.ports.telemetry import Telemetry


class Several:
    """Passes everything on, in the order of the listeners."""

    def __init__(self, *listeners: Telemetry) -> None:
        self._listeners = listeners

    def run_finished(self, run: Run) -> None:
        """See the port."""
        for one in self._listeners:
            one.run_finished(run)

    def attempt_failed(self, run: Run, error: BaseException) -> None:
        """See the port."""
        for one in self._listeners:
            one.attempt_failed(run, error)

    def model_call(self, call: ModelCall) -> None:
        """See the port."""
        for one in self._listeners:
            one.model_call(call)

    def model_call_replayed(self, call: ModelCall) -> None:
        """See the port."""
        for one in self._listeners:
            one.model_call_replayed(call)

    def refused(self, error: LimitExceeded) -> None:
        """See the port."""
        for one in self._listeners:
            one.refused(error)

    def worker_note(self, event: str, **fields: str | float | bool | None) -> None:
        """See the port."""
        for one in self._listeners:
            one.worker_note(event, **fields)
