"""How busy a process is. Told by ``ports/dispatch.py``, shown by ``telemetry/metrics.py``."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """``slots``: runs that may execute at once, of which ``held`` are taken, ``stuck`` by threads of ended runs.
    ``waiting``: runs in line, as last counted.
    """

    slots: int
    held: int
    stuck: int
    waiting: int
