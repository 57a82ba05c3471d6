"""Keeps what is measured on one core and what sends the load off it. Processes inherit the core they are started on."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager

import psutil

_CORES = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []

# Waiting, and work that Linux counts twice.
_NOT_WORK = frozenset({"idle", "iowait", "guest", "guest_nice"})


def describe() -> str:
    """How the processes are placed, for the head of the table."""
    if len(_CORES) > 1:
        return f"server and in-process on core {_CORES[0]}, load generator on core {_CORES[-1]}"
    return "server, in-process and load generator share the cores: the ratios are worse than they should be"


def busy_seconds() -> float:
    """Seconds that the measured core has worked for anybody so far; what the host took from it counts as well."""
    if not _CORES:
        return 0.0
    times = psutil.cpu_times(percpu=True)[_CORES[0]]._asdict()
    return sum(seconds for kind, seconds in times.items() if kind not in _NOT_WORK)


def take_load_core() -> None:
    """Move this process to the core of the load generator."""
    _move(_CORES[-1:])


@contextmanager
def measured_core() -> Generator[None]:
    """What is started inside runs on the measured core, with all its threads."""
    _move(_CORES[:1])
    try:
        yield
    finally:
        take_load_core()


@contextmanager
def every_core() -> Generator[None]:
    """What is started inside, and this process, run wherever there is room."""
    _move(_CORES)
    try:
        yield
    finally:
        take_load_core()


def _move(cores: list[int]) -> None:
    if sys.platform == "linux" and cores:
        os.sched_setaffinity(0, cores)
