"""What the operator is told. Implemented by ``telemetry``; every call is cheap and never raises."""

from typing import Protocol

from roadworthy.domain.errors import LimitExceeded
from roadworthy.domain.run import Run
from roadworthy.domain.usage import ModelCall


class Telemetry(Protocol):
    """What engine and services tell."""

    def run_finished(self, run: Run) -> None:
        """One record per run outcome; ``run`` is final."""
        ...

    def attempt_failed(self, run: Run, error: BaseException) -> None:
        """An attempt raised: the traceback belongs to the logs, never to the client."""
        ...

    def model_call(self, call: ModelCall) -> None:
        """A model call has ended, well or not, and goes on the ledger with this cost."""
        ...

    def model_call_replayed(self, call: ModelCall) -> None:
        """A call's answer came from the journal: nothing was bought."""
        ...

    def refused(self, error: LimitExceeded) -> None:
        """A run was not accepted because of a limit on load, rate or money."""
        ...

    def worker_note(self, event: str, **fields: str | float | bool | None) -> None:
        """Something an operator may want to know: recovery, drain, a stuck slot, a retried write."""
        ...


class WebTelemetry(Protocol):
    """What the web side tells."""

    def response_started(self, method: str, status: int) -> None:
        """A response begins."""
        ...

    def stream_opened(self) -> None:
        """A response that lasts: a client follows a run."""
        ...

    def stream_closed(self) -> None:
        """It has ended, however it did."""
        ...


class Exposition(Protocol):
    """The numbers of this process for a monitoring system."""

    def expose(self, accept: str) -> tuple[bytes, str]:
        """Body and media type in the format that an ``Accept`` header asks for."""
        ...
