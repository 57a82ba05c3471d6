"""How late the event loop is: a timer that measures its own delay. Run by ``cli/running.py``."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

MEASURE_EVERY = timedelta(milliseconds=500)


async def measure_loop_lag(told: Callable[[timedelta], None], every: timedelta = MEASURE_EVERY) -> None:
    """Tell, until cancelled, how much later than asked for each timer fired."""
    now = asyncio.get_running_loop().time
    while True:
        due = now() + every.total_seconds()
        await asyncio.sleep(every.total_seconds())
        told(timedelta(seconds=now() - due))
