"""How the process of a server ends: with which exit code, what is said before, and that it ends at all.

``serve`` runs the server's coroutine with it.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager, suppress

from roadworthy.cli.output import hint
from roadworthy.domain.errors import RoadworthyError

# The code of a process that ends itself because it cannot serve any more: EX_SOFTWARE of sysexits.h.
EXIT_STUCK = 70
# Seconds that closing databases and joining threads may take after the last response.
_TEARDOWN_SECONDS = 10


def end_soon(code: int) -> None:
    """The process ends within seconds: a thread that hangs in a tool would hold it up for ever."""
    last_resort = threading.Timer(_TEARDOWN_SECONDS, os._exit, (code,))
    last_resort.daemon = True
    last_resort.start()


@contextmanager
def ends_in_time() -> Generator[None]:
    """Whatever ended the body, the process follows soon."""
    code = EXIT_STUCK
    try:
        yield
        code = 0
    finally:
        end_soon(code)


def run(
    server: Coroutine[None, None, None],
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    last_resort: Callable[[int], None] = end_soon,
) -> None:
    """Run a server to its end. When it cannot go on, the reason is said first: closing may hang and never come back.

    Raises:
        SystemExit: with ``EXIT_STUCK``; agents do not choose our exit code.
        ConfigError, StorageUnavailable: it could not start.
    """
    runner = asyncio.Runner(loop_factory=loop_factory)
    try:
        runner.run(server)
    except (Exception, BaseExceptionGroup, SystemExit) as error:
        cause = _cause(error)
        if isinstance(cause, RoadworthyError):
            raise cause from None
        reason = _reason(cause)
        if reason is None:
            raise
        hint(f"roadworthy: {reason}; ending the process")
        last_resort(EXIT_STUCK)
        with suppress(SystemExit):  # it comes once more, out of the task groups that had the agent's task
            runner.close()
        raise SystemExit(EXIT_STUCK) from None
    finally:
        runner.close()


def _cause(error: BaseException) -> BaseException:
    """What happened first: each task group that it passed has wrapped it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _reason(cause: BaseException) -> str | None:
    """Why a server gave up; None when that was not its decision, but a defect."""
    from roadworthy.engine.supervision import EngineStuck

    match cause:
        case EngineStuck():
            return str(cause)
        case SystemExit():
            return f"code of an agent tried to end it (SystemExit: {cause.code})"
        case _:
            return None
