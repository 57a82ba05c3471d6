"""What a process did in a stretch of time, and how much of its core others had meanwhile.

A ratio is taken from the rounds in which others had the least: on a machine that is busy with something else the two
sides of a round see different shares of the core.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol, TypeVar

import psutil

from benchmarks.cores import busy_seconds


@dataclass(slots=True, kw_only=True)
class Watch:
    """``cpu``: seconds of all threads of the process. ``others``: share of the core that went elsewhere, 0 to 1."""

    cpu: float = 0.0
    others: float = 0.0


class Disturbed(Protocol):
    """A round, which knows how much it was disturbed."""

    @property
    def others(self) -> float:
        """The larger of the two sides' ``Watch.others``."""
        ...


Round = TypeVar("Round", bound=Disturbed)


@contextmanager
def watched(process: psutil.Process) -> Generator[Watch]:
    """Filled in when the context is left."""
    watch = Watch()
    began_at, cpu, busy = perf_counter(), _cpu_seconds(process), busy_seconds()
    yield watch
    watch.cpu = _cpu_seconds(process) - cpu
    watch.others = max(0.0, (busy_seconds() - busy - watch.cpu) / (perf_counter() - began_at))


def quieter_half(rounds: Sequence[Round]) -> Sequence[Round]:
    """The rounds in which the machine had the least other work, at least one."""
    return sorted(rounds, key=lambda one: one.others)[: -(-len(rounds) // 2)]


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system
