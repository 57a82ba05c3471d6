"""The services of users' data over a stage, and everything that can be kept of a user."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson

from roadworthy.domain.audit import Actor
from roadworthy.domain.event import ContentDelta
from roadworthy.domain.ids import UserId
from roadworthy.domain.principal import Owner, Principal, Scope
from roadworthy.domain.run import Run
from roadworthy.ports.queue import IdempotencyRecord
from roadworthy.ports.runtime import Completed, Progress
from roadworthy.protocols.admin.user_documents import part_line
from roadworthy.runtimes.scripted import Script, ScriptedRuntime
from roadworthy.services.audit import AuditTrail
from roadworthy.services.keys import Keys
from roadworthy.services.user_export import UserExports
from roadworthy.services.users import UserErasures
from roadworthy.storage.audit import SqlAuditLog
from roadworthy.storage.keys import SqlKeyStore
from roadworthy.storage.threads import SqlThreadStore
from roadworthy.storage.users import SqlUserRecords
from tests.integration.engine.stage import ANN, Stage, call, open_stage, owner, until

BOB = owner("acme", "bob")
STRANGER = owner("other", "ann")
ADMIN = Principal(owner=owner("acme", "boss"), scopes=frozenset({Scope.ADMIN}))
ACTOR = Actor(name="key:boss", request_id="request")
USER = UserId("ann")


@dataclass(frozen=True, slots=True, kw_only=True)
class Office:
    """The services of users' data over a stage."""

    stage: Stage
    runtime: ScriptedRuntime
    keys: Keys
    exports: UserExports
    erasures: UserErasures
    audit: AuditTrail

    async def export(self, user: UserId = USER) -> list[dict[str, Any]]:
        """The parts as a client reads them."""
        parts = await self.exports.begin(ADMIN, user, ACTOR)
        return [orjson.loads(part_line(part)) async for part in parts]

    async def actions(self) -> list[str]:
        """What the tenant's audit log says, the oldest first."""
        page = await self.audit.entries_of(ANN.tenant, since=None, limit=100, cursor=None)
        return [f"{entry.action} {entry.target}" for entry in page.items][::-1]


@asynccontextmanager
async def open_office(database_file: Path, *, patience: timedelta = timedelta(seconds=10)) -> AsyncGenerator[Office]:
    runtime = ScriptedRuntime()
    async with open_stage(database_file, runtime=runtime) as stage:
        keys = Keys(SqlKeyStore(stage.database, stage.clock), stage.clock, b"pepper")
        records, stored = SqlUserRecords(stage.database, stage.clock), SqlThreadStore(stage.database)
        yield Office(
            stage=stage,
            runtime=runtime,
            keys=keys,
            exports=UserExports(
                records=records,
                threads=stored,
                runs=stage.store,
                log=stage.log,
                keys=keys,
                runtime=runtime,
                clock=stage.clock,
            ),
            erasures=UserErasures(
                records=records,
                stored=stored,
                threads=stage.threads,
                log=stage.log,
                keys=keys,
                stopper=stage.worker,
                runtime=runtime,
                patience=patience,
            ),
            audit=AuditTrail(SqlAuditLog(stage.database)),
        )


def talk(text: str) -> Script:
    return (
        ContentDelta(message_id="m", text=text),
        call(f"call-{text}"),
        Progress(),
        Completed(response=text, output={"text": text}, structured_response=None),
    )


async def spoken(office: Office, text: str, *, who: Owner = ANN, thread: str = "thread") -> Run:
    office.runtime.script(talk(text))
    stage = office.stage
    record = IdempotencyRecord(key=f"sent-{text}", body_hash=f"hash-{text}")
    accepted = await stage.worker.submit(stage.run(thread, who=who), idempotency=record)
    ended = await stage.end(accepted.run)
    await until(lambda: not stage.worker.executing())
    return ended


async def furnish(office: Office) -> list[Run]:
    """Everything that can be kept of Ann, and the same of others."""
    office.runtime.items = {
        who: [{"namespace": ["notes"], "key": name, "value": {"text": f"item of {name}"}}]
        for who, name in ((ANN, "ann"), (BOB, "bob"), (STRANGER, "stranger"))
    }
    for who in (BOB, STRANGER):
        await office.keys.create(who, ACTOR, name=f"key of {who.tenant} {who.user}")
        await spoken(office, f"{who.tenant}-{who.user}-secret", who=who)
    return [await spoken(office, f"mine-{n}", thread="thread" if n % 2 else "other") for n in range(5)]
