"""A worker in a process of its own, for a test that stops the process: executes one run, and says how that went.

Called with the database's URL. Prints the run's id when its agent is at work; goes on when it reads a line; prints the
telemetry's notes and how many runs it has finished when it has let go of the run.
"""

import asyncio
import sys

from roadworthy.domain.event import ContentDelta
from roadworthy.ports.runtime import Completed, Progress
from roadworthy.runtimes.scripted import Gate, ScriptedRuntime
from tests.integration.engine.replicas import open_replicas, sound
from tests.integration.engine.stage import call, new_run, until

DONE = Completed(response="done", output=None, structured_response=None)
SCRIPT = (
    ContentDelta(message_id="m", text="begun"),
    Gate(name="g"),
    call("in-flight"),
    ContentDelta(message_id="m", text="late"),
    Progress(),
    DONE,
)


async def main(url: str) -> None:
    """See the module."""
    runtime = ScriptedRuntime(default=SCRIPT)
    async with asyncio.timeout(50), open_replicas(url, runtime) as replicas:
        worker = await replicas.start()
        await sound(worker)
        run = await worker.submit(new_run())
        await until(lambda: len(runtime.executions) == 1)
        print(run.run_id, flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        # In the same turn of the loop: nobody may have looked at the time yet.
        runtime.gate("g").set()
        await until(lambda: not worker.worker.executing())
        print(len(worker.witness.finished), *worker.witness.notes, flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
