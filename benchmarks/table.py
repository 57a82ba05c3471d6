"""Rows of the one table, their verdicts, and how both are printed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_HEAD = ("what", "in-process", "served", "result", "target", "verdict")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measurement. ``met`` is None where nothing was aimed at; ``others``: how much of the core others had."""

    what: str
    inprocess: str = ""
    served: str = ""
    result: str = ""
    target: str = ""
    met: bool | None = None
    others: float = 0.0

    @property
    def cells(self) -> tuple[str, ...]:
        """As text, in the order of the head."""
        verdict = "" if self.met is None else "met" if self.met else "missed"
        return (self.what, self.inprocess, self.served, self.result, self.target, verdict)


def at_least(ratio: float, target: float) -> tuple[str, str, bool]:
    """Result, target and verdict of a ratio that should be high."""
    return f"{ratio:.2f}", f"≥ {target:g}", ratio >= target


def at_most(value: float, target: float, unit: str) -> tuple[str, str, bool]:
    """Result, target and verdict of something that should be small."""
    return f"{value:.2f}{unit}", f"≤ {target:g}{unit}", value <= target


def markdown(rows: Sequence[Row]) -> Iterator[str]:
    """The table, line by line, aligned for a terminal too."""
    cells = [_HEAD, *(row.cells for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEAD))]
    for number, line in enumerate(cells):
        yield "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        if number == 0:
            yield "| " + " | ".join("-" * width for width in widths) + " |"
