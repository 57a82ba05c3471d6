"""The watchdog bites a loop that is wedged, and no other."""

import asyncio
import threading
import time
from datetime import timedelta

from roadworthy.engine.heartbeat import Watchdog


async def test_a_loop_that_beats_is_left_alone_and_a_wedged_one_is_not() -> None:
    bitten = threading.Event()
    with Watchdog(timedelta(seconds=1.5), on_wedged=bitten.set) as watchdog:
        async with asyncio.TaskGroup() as group:
            beating = group.create_task(watchdog.keep_beating())
            await asyncio.sleep(2)
            assert not bitten.is_set()
            while not bitten.is_set():
                time.sleep(0.05)  # noqa: ASYNC251 -- blocking the loop is what is tested
            beating.cancel()
    assert bitten.is_set()
