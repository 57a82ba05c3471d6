"""Attempts without a graph: what a saver, a journal and a store take for one, and who takes its run away."""

from collections.abc import Generator
from contextlib import contextmanager

import psycopg

from roadworthy.domain.run import Run
from roadworthy.ports.circuits import NoCircuits
from roadworthy.runtimes.langgraph.attempt_stop import AttemptStop
from roadworthy.runtimes.langgraph.current import AttemptScope, current_attempt
from roadworthy.runtimes.langgraph.journal_place import CheckpointWatch
from roadworthy.runtimes.langgraph.keys import thread_key
from roadworthy.runtimes.langgraph.metering import ModelMeter
from roadworthy.runtimes.langgraph.threads import WorkTracker
from tests.conformance.runtime.holding import hold
from tests.conformance.runtime.playing import CAPS, SystemClock, ref_of

TAKE_OVER = "UPDATE runs SET attempt = attempt + 1 WHERE run_id = %s"


def scope_of(run: Run) -> AttemptScope:
    """The attempt as code within it finds it."""
    meter = ModelMeter(
        lambda _: None, stop=AttemptStop(), caps=CAPS, clock=SystemClock(), circuits=NoCircuits(), tool_chars=1000
    )
    return AttemptScope(
        owner=run.owner,
        run_id=run.run_id,
        attempt=run.attempt,
        tools=meter.tools,
        work=WorkTracker(),
        watch=CheckpointWatch(thread_key(ref_of(run))),
    )


@contextmanager
def attempting(url: str, run: Run) -> Generator[AttemptScope]:
    """Be inside an attempt that holds its run."""
    hold(url, run)
    scope = scope_of(run)
    token = current_attempt.set(scope)
    try:
        yield scope
    finally:
        current_attempt.reset(token)


def take_over(url: str, run: Run) -> None:
    """Another worker claims the run."""
    with psycopg.connect(url) as connection:
        connection.execute(TAKE_OVER, (run.run_id,))


def end(url: str, run: Run) -> None:
    """The run ends."""
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE runs SET status = 'error' WHERE run_id = %s", (run.run_id,))
