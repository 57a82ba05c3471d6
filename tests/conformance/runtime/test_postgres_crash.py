"""A process is killed in the middle of a step; another one goes on from what Postgres has."""

import asyncio
import signal
import sys
from pathlib import Path

from roadworthy.domain.usage import ModelCall
from tests.conformance.runtime.dying import graph_over, the_run
from tests.conformance.runtime.playing import AGENT, BOUND, Bench, looked_up, play, ref_of, retried
from tests.conformance.runtime.replaying import numbered, replayed


async def test_another_process_goes_on_where_one_was_killed(tmp_path: Path, database: str) -> None:
    model = numbered("bought")
    async with asyncio.timeout(2 * BOUND):
        dying = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.conformance.runtime.dying", database)
        assert await dying.wait() == -signal.SIGKILL
        async with Bench(folder=tmp_path, url=database).serve(graph_over(model, dies=False)) as runtime:
            assert len(await looked_up(runtime, "SELECT 1 FROM journal")) == 1
            run = the_run(runtime.message_input(AGENT, "Go."))
            played = await play(runtime, retried(run))
            state = await runtime.thread_state(AGENT, ref_of(run))
            assert await looked_up(runtime, "SELECT 1 FROM journal") == []
    assert played.completed.response == "#1 bought"
    assert [message.content for message in state.messages] == ["Go.", "first", "#1 bought"]
    assert (model.billed, len(replayed(played)), played.of(ModelCall)) == ([], 1, [])
