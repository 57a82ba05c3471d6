"""A Telemetry that remembers what the operator was told."""

from dataclasses import dataclass, field

from roadworthy.domain.run import Run


@dataclass
class NotedTelemetry:
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
