"""A process that prunes a data folder and is killed between a thread's rows and its checkpoints."""

import asyncio
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

from roadworthy.domain.thread import ThreadRef
from roadworthy.runtimes.langgraph.runtime import LangGraphRuntime, open_runtime
from roadworthy.runtimes.langgraph.state_places import SqliteFolder
from roadworthy.services.retention import Kept, Retention
from roadworthy.services.threads import Threads
from roadworthy.storage.queue import SqlRunQueue
from roadworthy.storage.retention import SqlRetention
from roadworthy.storage.runs import SqlRunStore
from roadworthy.storage.sqlite import open_sqlite
from roadworthy.storage.threads import SqlThreadStore
from roadworthy.telemetry.clock import SystemClock
from roadworthy.telemetry.run_log import RunLog


async def _die(self: LangGraphRuntime, ref: ThreadRef) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def main(folder: Path) -> None:
    """Prune, and die where checkpoints would be deleted."""
    LangGraphRuntime.erase_thread = _die
    async with (
        open_sqlite(folder / "roadworthy.db") as database,
        open_runtime(
            (),
            state=SqliteFolder(path=folder),
            tool_timeout=timedelta(seconds=10),
            tool_output_max=1_000,
            store_scope="user",
            store_index=None,
            extra_types=(),
            clock=SystemClock(),
        ) as runtime,
    ):
        retention = Retention(
            store=SqlRetention(database),
            queue=SqlRunQueue(database, SystemClock()),
            threads=Threads(threads=SqlThreadStore(database), runs=SqlRunStore(database), runtime=runtime),
            runtime=runtime,
            clock=SystemClock(),
            telemetry=RunLog(),
            kept=Kept(
                threads=timedelta(days=30), events=None, idempotency=timedelta(days=1), checkpoints=10, outputs=10
            ),
        )
        await retention.prune_once()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
