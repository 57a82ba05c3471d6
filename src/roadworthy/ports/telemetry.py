"""What the engine tells the operator. Implemented by ``telemetry``; every call is cheap and never raises."""

from typing import Protocol

from roadworthy.domain.run import Run


class Telemetry(Protocol):
    """See the module."""

    def run_finished(self, run: Run) -> None:
        """One record per run outcome; ``run`` is final."""
        ...

    def attempt_failed(self, run: Run, error: BaseException) -> None:
        """An attempt raised: the traceback belongs to the logs, never to the client."""
        ...

    def worker_note(self, event: str, **fields: str | float | bool | None) -> None:
        """Something an operator may want to know: recovery, drain, a stuck slot, a retried write."""
        ...
