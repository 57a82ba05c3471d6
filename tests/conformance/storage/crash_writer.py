"""A process that stores runs and tells its parent of each one that is committed, until it is killed."""

import asyncio
import sys
from pathlib import Path

from roadworthy.domain.run import RunResult, RunStatus
from roadworthy.storage.queue import SqlRunQueue
from roadworthy.storage.sqlite import open_sqlite
from tests.conformance.storage.factories import TickingClock, lease_of, new_run


async def client(queue: SqlRunQueue, name: str) -> None:
    while True:
        accepted = await queue.accept(new_run(thread=name), claim_for="worker", max_pending=100, idempotency=None)
        print("accepted", accepted.run.run_id, flush=True)
        await queue.finish(lease_of(accepted.run), RunStatus.SUCCESS, RunResult(response="done"), events=())
        print("finished", accepted.run.run_id, flush=True)


async def main(path: Path) -> None:
    async with open_sqlite(path) as database, asyncio.TaskGroup() as group:
        queue = SqlRunQueue(database, TickingClock())
        for number in range(8):
            group.create_task(client(queue, f"thread-{number}"))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
