"""Counts what the database does for runs of the engine alone; prints JSON. ``statements.py`` starts it."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import uvloop

from benchmarks.graphs.scripted import instant
from roadworthy.bootstrap import Container, Project, bootstrap
from roadworthy.domain.errors import LimitExceeded
from roadworthy.domain.ids import AgentName, new_id
from roadworthy.domain.run import Run
from roadworthy.domain.usage import ModelCall
from roadworthy.ports.queue import Accepted
from roadworthy.runtimes.langgraph.registry import LoadedAgent
from roadworthy.services.runs import CreateRun
from roadworthy.settings import Settings
from roadworthy.storage.sqlite import SqliteDatabase

Watch = Callable[[Container, Accepted], Awaitable[None]]


class Silence:
    """``ports.telemetry`` without a word."""

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


async def _main(folder: Path, runs: int) -> None:
    agents = [LoadedAgent(name=AgentName("instant"), graph=instant())]
    async with bootstrap(Settings(data_dir=folder), Project(agents=agents), Silence()) as container:
        key = container.first_key
        if key is None:
            raise ValueError("the data folder is not new")
        counted = [await _count(container, key.text, runs, watch) for watch in (_wait, _follow)]
    print(json.dumps({name: max(one[name] for one in counted) for name in counted[0]}))


async def _count(container: Container, key: str, runs: int, watch: Watch) -> Mapping[str, float]:
    """Per run, with a look at the key as a request does it."""
    database = container.database
    if not isinstance(database, SqliteDatabase):
        raise TypeError("only SQLite counts its statements")
    before = database.counters
    for _ in range(runs):
        principal = await container.keys.authenticate(key)
        accepted = await container.runs.create(
            principal,
            CreateRun(agent=None, thread_id=None, message="How long?", has_input=False, request_id=new_id()),
        )
        await watch(container, accepted)
    # Whatever a run leaves for later is its own too.
    await asyncio.sleep(1)
    after = database.counters
    return {
        "transactions": (after.transactions - before.transactions) / runs,
        "written": (after.written - before.written) / runs,
        "read": (after.read - before.read) / runs,
    }


async def _wait(container: Container, accepted: Accepted) -> None:
    await container.runs.wait(accepted.run)


async def _follow(container: Container, accepted: Accepted) -> None:
    async for _ in container.streams.follow(accepted.run, after=None):
        pass


if __name__ == "__main__":
    uvloop.run(_main(Path(sys.argv[1]), int(sys.argv[2])))
