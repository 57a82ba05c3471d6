"""Two workers on one Postgres: what one leaves, the other finishes, and a worker that has lost a run writes nothing."""

import asyncio

from roadworthy.domain.event import ContentDelta
from roadworthy.domain.run import RunStatus
from roadworthy.ports.runtime import Completed, Progress
from roadworthy.runtimes.scripted import Gate, Script, ScriptedRuntime
from tests.integration.engine.replicas import open_replicas, sound
from tests.integration.engine.stage import new_run, until

DONE = Completed(response="done", output=None, structured_response=None)
HELD: Script = (ContentDelta(message_id="m", text="begun"), Gate(name="g"), Progress(), DONE)


async def test_a_dead_workers_runs_are_taken_over_in_the_order_of_their_thread(url: str) -> None:
    runtime = ScriptedRuntime(default=HELD)
    async with asyncio.timeout(50), open_replicas(url, runtime) as replicas:
        first, second = await replicas.start(), await replicas.start()
        await sound(first, second)
        runs = [await first.submit(new_run()) for _ in range(3)]
        await until(lambda: len(runtime.executions) == 1)
        await first.kill()
        runtime.gate("g").set()
        ended = [await second.end(run) for run in runs]
        assert [run.status for run in ended] == [RunStatus.SUCCESS] * 3
        assert [(run.attempt, run.losses) for run in ended] == [(2, 1), (1, 0), (1, 0)]
        assert [one.run.run_id for one in runtime.executions] == [runs[0].run_id, *(run.run_id for run in runs)]
