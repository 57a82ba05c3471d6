"""Numbers out of lists of measured times."""

from collections.abc import Sequence
from statistics import median

import psutil


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which ``percent`` of the values lie, by nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def milliseconds(seconds: float) -> str:
    """A time as text."""
    return f"{seconds * 1000:.1f} ms"


def cpu_seconds(process: psutil.Process) -> float:
    """What a process has used of its core so far; other programs on it disturb this less than they do the clock."""
    times = process.cpu_times()
    return times.user + times.system


def median_ratio(served: Sequence[float], inprocess: Sequence[float]) -> float:
    """The median over rounds of served to in-process: both sides of a round saw the same machine."""
    return median(one / other for one, other in zip(served, inprocess, strict=True))
