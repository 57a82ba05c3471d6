"""A runtime on Postgres whose attempts hold their runs, as the engine's do: rows in the table that fences look at."""

import asyncio
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from itertools import count

import psycopg

from roadworthy.domain.run import Run
from roadworthy.ports.runtime import Caps, Execution, Spending
from roadworthy.runtimes.langgraph.runtime import LangGraphRuntime

_ENDED = "UPDATE runs SET status = 'success' WHERE tenant = %s AND owner = %s AND thread_id = %s AND run_id <> %s"
_HELD = (
    "INSERT INTO runs (run_id, tenant, owner, thread_id, ord, agent, status, attempt, losses, request, request_id, "
    "created_at, deadline_at) VALUES (%s, %s, %s, %s, %s, %s, 'running', %s, 0, '{}', 'request', 0, 0) "
    "ON CONFLICT (run_id) DO UPDATE SET status = 'running', attempt = EXCLUDED.attempt"
)
_places = count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldingRuntime(LangGraphRuntime):
    """Its attempts hold the runs that they are about. ``url``: the database of runs."""

    url: str

    @asynccontextmanager
    async def execution(
        self,
        run: Run,
        *,
        caps: Caps,
        first_on_thread: bool,
        spending: Spending | None = None,
        told: Collection[str] = (),
    ) -> AsyncGenerator[Execution]:
        # Not on the loop: what is still under way for an earlier attempt may have to end first.
        await asyncio.to_thread(hold, self.url, run)
        parent = LangGraphRuntime.execution(
            self, run, caps=caps, first_on_thread=first_on_thread, spending=spending, told=told
        )
        async with parent as execution:
            yield execution


def holding(runtime: LangGraphRuntime, url: str) -> HoldingRuntime:
    """The runtime with attempts that hold their runs."""
    return HoldingRuntime(url=url, **{field.name: getattr(runtime, field.name) for field in fields(runtime)})


def hold(url: str, run: Run) -> None:
    """Make ``run`` the one that is under way on its thread."""
    place = (run.owner.tenant, run.owner.user, run.thread_id)
    with psycopg.connect(url) as connection:
        connection.execute(_ENDED, (*place, run.run_id))
        connection.execute(_HELD, (run.run_id, *place, next(_places), run.agent, run.attempt))
