"""A ``ports.telemetry.Telemetry`` that hears nothing: tests override what they listen to."""

from dataclasses import dataclass, field

from roadworthy.domain.errors import LimitExceeded
from roadworthy.domain.run import Run
from roadworthy.domain.usage import ModelCall


class Deaf:
    """See the module."""

    def run_finished(self, run: Run) -> None:
        """See the port."""

    def attempt_failed(self, run: Run, error: BaseException) -> None:
        """See the port."""

    def model_call(self, call: ModelCall) -> None:
        """See the port."""

    def model_call_replayed(self, call: ModelCall) -> None:
        """See the port."""

    def refused(self, error: LimitExceeded) -> None:
        """See the port."""

    def worker_note(self, event: str, **fields: str | float | bool | None) -> None:
        """See the port."""


@dataclass
class NotedTelemetry(Deaf):
    """Notes in their order, each with its fields."""

    notes: list[tuple[str, dict[str, str | float | bool | None]]] = field(
        default_factory=list[tuple[str, dict[str, str | float | bool | None]]]
    )

    def run_finished(self, run: Run) -> None: ...

    def attempt_failed(self, run: Run, error: BaseException) -> None: ...

    def worker_note(self, event: str, **fields: str | float | bool | None) -> None:
        self.notes.append((event, fields))

    def count(self, event: str, **fields: str) -> int:
        """How often it was said, with at least these fields."""
        return sum(name == event and fields.items() <= said.items() for name, said in self.notes)
