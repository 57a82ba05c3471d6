"""Keeps what is measured on one core and what sends the load off it. Processes inherit the core they are started on."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager

_CORES = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []


def describe() -> str:
    """How the processes are placed, for the head of the table."""
    if len(_CORES) > 1:
        return f"server and in-process on core {_CORES[0]}, load generator on core {_CORES[-1]}"
    return "server, in-process and load generator share the cores: the ratios are worse than they should be"


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


def _move(cores: list[int]) -> None:
    if sys.platform == "linux" and cores:
        os.sched_setaffinity(0, cores)
