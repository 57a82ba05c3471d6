"""The watchdog in a process of its own: it ends one whose loop is wedged, not one that somebody had stopped."""

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import psutil

from roadworthy.engine.heartbeat import EXIT_WEDGED

BEATING = """
import asyncio, sys, time
from datetime import timedelta
from roadworthy.engine.heartbeat import Watchdog

async def main():
    with Watchdog(timedelta(seconds=0.8)) as watchdog:
        async with asyncio.TaskGroup() as group:
            group.create_task(watchdog.keep_beating())
            while True:
                print("alive", flush=True)
                await asyncio.sleep(0.05)
                if "wedge" in sys.argv:
                    time.sleep(60)

asyncio.run(main())
"""


@asynccontextmanager
async def process(*words: str) -> AsyncGenerator[Process]:
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", BEATING, *words, stdout=PIPE, stderr=PIPE)
    try:
        async with asyncio.timeout(30):
            yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def line(child: Process) -> bytes:
    assert child.stdout is not None
    return await child.stdout.readline()


async def test_a_process_that_was_stopped_for_long_goes_on() -> None:
    async with process() as child:
        await line(child)
        child.send_signal(signal.SIGSTOP)
        while psutil.Process(child.pid).status() != psutil.STATUS_STOPPED:  # noqa: ASYNC110 -- nobody tells
            await asyncio.sleep(0.01)
        await asyncio.sleep(1.2)  # longer than the watchdog's patience
        child.send_signal(signal.SIGCONT)
        for _ in range(40):
            assert await line(child) == b"alive\n"


async def test_a_wedged_process_ends_and_shows_where_it_hangs() -> None:
    async with process("wedge") as child:
        assert child.stderr is not None
        told = (await child.stderr.read()).decode()
        assert await child.wait() == EXIT_WEDGED
        assert "the event loop is wedged" in told
        assert 'File "<string>"' in told
