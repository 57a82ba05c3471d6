"""Erasing a thread: nothing is lost to a refusal, and nothing of a new thread to an old erasure."""

import asyncio
from datetime import datetime
from pathlib import Path

import pytest

from roadworthy.domain.errors import NotFound, StorageUnavailable, ThreadBusy
from roadworthy.domain.event import ContentDelta
from roadworthy.domain.thread import ThreadRef
from roadworthy.ports.runtime import Completed, Progress
from roadworthy.runtimes.scripted import Gate, Script, ScriptedRuntime
from roadworthy.services.threads import Threads, finish_erasures
from roadworthy.storage.threads import SqlThreadStore
from tests.integration.engine.failing import Pause
from tests.integration.engine.stage import BOUND, Stage, caller, open_stage, ref_of, until

KEPT: Script = (
    ContentDelta(message_id="m", text="kept"),
    Progress(),
    Completed(response="kept", output=None, structured_response=None),
)
HELD: Script = (Gate(name="g"), *KEPT)


class HinderedRuntime(ScriptedRuntime):
    """What erasing a thread's checkpoints runs into."""

    obstacle: Pause | Exception | None = None

    async def erase_thread(self, ref: ThreadRef) -> None:
        """See the port."""
        if isinstance(self.obstacle, Pause):
            await self.obstacle.pass_through()
        elif self.obstacle is not None:
            raise self.obstacle
        await super().erase_thread(ref)


async def spoken(stage: Stage) -> None:
    """A run on the thread has ended and left its messages."""
    stage.runtime.script(KEPT)
    await stage.end(await stage.submit(stage.run()))
    await until(lambda: not stage.worker.executing())


async def contents(stage: Stage) -> list[object]:
    return [message.content for message in (await stage.threads.get(caller(), "thread")).messages]


async def test_a_run_that_comes_at_the_last_moment_keeps_the_thread_whole(database_file: Path) -> None:
    runtime = ScriptedRuntime()
    async with open_stage(database_file, runtime=runtime) as stage:
        await spoken(stage)
        runtime.script(HELD)

        class Late(SqlThreadStore):
            async def erase(self, ref: ThreadRef, *, unused_since: datetime | None = None) -> bool:
                await stage.submit(stage.run())
                return await super().erase(ref, unused_since=unused_since)

        threads = Threads(threads=Late(stage.database), runs=stage.store, runtime=runtime)
        with pytest.raises(ThreadBusy):
            await threads.erase(caller(), "thread")
        assert await contents(stage) == ["hello", "kept"]
        runtime.gate("g").set()


async def test_while_a_thread_is_erased_nobody_else_uses_or_erases_it(database_file: Path) -> None:
    runtime = HinderedRuntime()
    runtime.obstacle = pause = Pause()
    async with asyncio.timeout(BOUND), open_stage(database_file, runtime=runtime) as stage:
        await spoken(stage)
        async with asyncio.TaskGroup() as group:
            group.create_task(stage.threads.erase(caller(), "thread"))
            await pause.reached.wait()
            with pytest.raises(ThreadBusy, match="being erased"):
                await stage.submit(stage.run())
            with pytest.raises(ThreadBusy, match="being erased"):
                await stage.threads.erase(caller(), "thread")
            with pytest.raises(NotFound):
                await stage.threads.get(caller(), "thread")
            pause.opened.set()
        await spoken(stage)
        assert await contents(stage) == ["hello", "kept"]


async def test_an_erasure_that_failed_is_finished_when_asked_for_again(database_file: Path) -> None:
    runtime = HinderedRuntime()
    async with open_stage(database_file, runtime=runtime) as stage:
        await spoken(stage)
        runtime.obstacle = StorageUnavailable("the disk is away")
        with pytest.raises(StorageUnavailable):
            await stage.threads.erase(caller(), "thread")
        with pytest.raises(ThreadBusy):
            await stage.submit(stage.run())
        runtime.obstacle = None
        await stage.threads.erase(caller(), "thread")
        with pytest.raises(NotFound):
            await stage.threads.erase(caller(), "thread")
        await spoken(stage)
        assert await contents(stage) == ["hello", "kept"]


async def test_an_erasure_that_a_crash_cut_off_is_finished_at_the_next_start(database_file: Path) -> None:
    runtime = HinderedRuntime()
    async with open_stage(database_file, runtime=runtime) as stage:
        await spoken(stage)
        run = stage.run()
        runtime.obstacle = StorageUnavailable("the process dies here")
        with pytest.raises(StorageUnavailable):
            await stage.threads.erase(caller(), "thread")
    runtime.obstacle = None
    async with open_stage(database_file, runtime=runtime) as stage:
        await finish_erasures(SqlThreadStore(stage.database), runtime)
        assert (await runtime.thread_state(run.agent, ref_of(run))).messages == ()
        await spoken(stage)
        assert await contents(stage) == ["hello", "kept"]
