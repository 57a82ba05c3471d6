"""Numbers out of lists of measured times."""

from collections.abc import Sequence


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which ``percent`` of the values lie, by nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def milliseconds(seconds: float) -> str:
    """A time as text."""
    return f"{seconds * 1000:.1f} ms"
