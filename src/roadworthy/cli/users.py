"""``roadworthy users``: hand out or erase all that is kept of one user.

``export`` reads beside a running server. ``erase`` must be alone with the agents' own files: while a server runs,
and on Postgres, a server's API erases.
"""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roadworthy.cli.data import actor, agents_state, open_database
from roadworthy.cli.environment import load_settings
from roadworthy.cli.output import hint, say_json
from roadworthy.domain.errors import ConfigError, InvalidRequest
from roadworthy.domain.ids import parse_tenant_id, parse_user_id
from roadworthy.domain.principal import Owner
from roadworthy.domain.run import CancelReason, Run, RunError, RunResult, RunStatus
from roadworthy.domain.thread import ThreadState

if TYPE_CHECKING:
    from typing import BinaryIO

    from roadworthy.domain.ids import AgentName
    from roadworthy.domain.json import JsonObject
    from roadworthy.domain.thread import ThreadRef
    from roadworthy.ports.queue import RunQueue
    from roadworthy.ports.runtime import AgentRuntime
    from roadworthy.services.users import Erased
    from roadworthy.settings import Settings
    from roadworthy.storage.folder import DataFolder

app = typer.Typer(help="Export or erase all that is kept of a user.", no_args_is_help=True)

_User = Annotated[str, typer.Argument(help="1 to 128 of A-Z a-z 0-9 . _ : @ | + -")]
_Tenant = Annotated[str, typer.Option(help="The user's tenant.")]


@app.command()
def export(
    user: _User,
    tenant: _Tenant = "default",
    out: Annotated[Path | None, typer.Option(help="A new file to write to. Default: standard output.")] = None,
) -> None:
    """Write all that is kept of a user, one JSON object a line. States of threads are in the API's export only."""
    owner = Owner(tenant=parse_tenant_id(tenant), user=parse_user_id(user))
    settings = load_settings()
    with _output(out) as lines:
        asyncio.run(_export(settings, owner, lines))


@app.command()
def erase(
    user: _User,
    tenant: _Tenant = "default",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Revoke a user's keys, end the runs, delete threads and store items. On SQLite, while no server runs."""
    owner = Owner(tenant=parse_tenant_id(tenant), user=parse_user_id(user))
    settings = load_settings()
    if not yes:
        typer.confirm(f"Erase all that is kept of {user} in {tenant}, for ever?", abort=True, err=True)
    erased = asyncio.run(_erase(settings, owner))
    say_json({"threads": erased.threads, "runs": erased.runs, "items": erased.items, "keys": erased.keys})
    hint("rows of the ledger and of the audit log stay: they hold no content")


async def _export(settings: "Settings", owner: Owner, lines: "BinaryIO") -> None:
    from roadworthy.protocols.admin.user_documents import part_line
    from roadworthy.services.keys import Keys
    from roadworthy.services.user_export import UserExports
    from roadworthy.storage.event_log import SqlEventLog
    from roadworthy.storage.keys import SqlKeyStore
    from roadworthy.storage.runs import SqlRunStore
    from roadworthy.storage.threads import SqlThreadStore
    from roadworthy.storage.users import SqlUserRecords
    from roadworthy.telemetry.clock import SystemClock

    clock = SystemClock()
    async with open_database(settings) as (folder, database):
        runs = SqlRunStore(database)
        exports = UserExports(
            records=SqlUserRecords(database, clock),
            threads=SqlThreadStore(database),
            runs=runs,
            log=SqlEventLog(database, runs),
            keys=Keys(SqlKeyStore(database, clock), clock, settings.pepper(folder.pepper)),
            runtime=_Store(settings),
            clock=clock,
            states=False,
        )
        async for part in await exports.begin_for(owner, actor()):
            lines.write(part_line(part))


async def _erase(settings: "Settings", owner: Owner) -> "Erased":
    from roadworthy.services.keys import Keys
    from roadworthy.services.threads import Threads
    from roadworthy.services.users import UserErasures
    from roadworthy.storage.event_log import SqlEventLog
    from roadworthy.storage.keys import SqlKeyStore
    from roadworthy.storage.queue import SqlRunQueue
    from roadworthy.storage.runs import SqlRunStore
    from roadworthy.storage.threads import SqlThreadStore
    from roadworthy.storage.users import SqlUserRecords
    from roadworthy.telemetry.clock import SystemClock

    clock = SystemClock()
    async with open_database(settings) as (folder, database):
        stored, runs = SqlThreadStore(database), SqlRunStore(database)
        with _alone(settings, folder, owner):
            async with _runtime(settings, folder) as runtime:
                erasures = UserErasures(
                    records=SqlUserRecords(database, clock),
                    stored=stored,
                    threads=Threads(threads=stored, runs=runs, runtime=runtime),
                    log=SqlEventLog(database, runs),
                    keys=Keys(SqlKeyStore(database, clock), clock, settings.pepper(folder.pepper)),
                    stopper=_Ending(SqlRunQueue(database, clock)),
                    runtime=runtime,
                )
                return await erasures.erase_for(owner, actor())


@asynccontextmanager
async def _runtime(settings: "Settings", folder: "DataFolder") -> "AsyncGenerator[AgentRuntime]":
    """The agents' own files, without the agents."""
    from roadworthy.bootstrap import Project, open_project_runtime

    # Nothing is decoded, so no class of the agents is imported.
    bare = settings.model_copy(update={"state_types": ()})
    async with open_project_runtime(bare, Project(agents=()), folder) as runtime:
        yield runtime


class _Store:
    """``services.user_export.UserState`` for an export: the agents' store, read beside a server."""

    def __init__(self, settings: "Settings") -> None:
        self._settings = settings

    async def thread_state(self, agent: "AgentName", ref: "ThreadRef") -> ThreadState:  # noqa: ARG002 -- port
        """Nobody can read it without the agent."""
        return ThreadState(messages=(), values=None)

    async def export_items(self, owner: Owner) -> "Sequence[JsonObject]":
        """See ``AgentRuntime.export_items``."""
        from roadworthy.runtimes.langgraph.beside import items_in

        shared = self._settings.store_scope == "tenant"
        return () if shared else await items_in(agents_state(self._settings), owner)


class _Ending:
    """``services.users.RunStopper`` where no server lives: what is unfinished is ended as it stands."""

    def __init__(self, queue: "RunQueue") -> None:
        self._queue = queue

    async def stop(self, run: Run, reason: CancelReason) -> Run:
        """End it."""
        result = RunResult(error=RunError(code=reason.value, message="the run was stopped"))
        end = self._queue.end_pending if run.status is RunStatus.PENDING else self._queue.end_orphan
        return await end(run, RunStatus.CANCELLED, result) or run


@contextmanager
def _alone(settings: "Settings", folder: "DataFolder", owner: Owner) -> Generator[None]:
    instead = (
        f"let it erase, with an admin key of the tenant {owner.tenant}: "
        f"curl -X DELETE -H 'Authorization: Bearer …' …/admin/users/{owner.user}"
    )
    if settings.database_url is not None:
        # No lock tells whether there is one, and one that has a run of the user would go on with it.
        raise ConfigError(f"on Postgres a server may be running: {instead}")
    with ExitStack() as stack:
        try:
            stack.enter_context(folder.locked())
        except ConfigError:
            raise ConfigError(f"a server uses the data folder {folder.path}: {instead}") from None
        yield


@contextmanager
def _output(out: Path | None) -> "Generator[BinaryIO]":
    """Standard output, or a new file that nobody else can read; an export that fails leaves none."""
    if out is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InvalidRequest(f"{out} cannot be made: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
    except BaseException:  # interrupted too: half an export looks like a whole one
        out.unlink(missing_ok=True)
        raise
