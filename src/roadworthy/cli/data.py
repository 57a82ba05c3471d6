"""The data as operator's commands see it, in the data folder or on Postgres, beside a running server or without one.

``keys``, ``runs``, ``budgets``, ``rates``, ``usage``, ``audit`` and ``users`` open it, do one thing, and close it. No
folder lock is taken: every change is one transaction. (``users erase`` takes it, for the agents' own files.)
"""

import getpass
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from roadworthy.domain.audit import Actor
from roadworthy.domain.errors import RoadworthyError
from roadworthy.ports.queue import RunQueue
from roadworthy.ports.store import RunStore

if TYPE_CHECKING:
    from roadworthy.runtimes.langgraph.state_places import StatePlace
    from roadworthy.services.audit import AuditTrail
    from roadworthy.services.budgets import Budgets
    from roadworthy.services.keys import Keys
    from roadworthy.services.limits import Limits
    from roadworthy.services.usage import UsageReports
    from roadworthy.settings import Settings
    from roadworthy.storage.folder import DataFolder
    from roadworthy.storage.transaction import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorData:
    """What an operator may do to the data, across tenants."""

    keys: "Keys"
    runs: RunStore
    queue: RunQueue
    budgets: "Budgets"
    limits: "Limits"
    usage: "UsageReports"
    audit: "AuditTrail"


def actor() -> Actor:
    """Who uses the command line, for the audit log."""
    try:
        return Actor(name=f"cli:{getpass.getuser()}")
    except (KeyError, OSError):  # a container's user may have no name
        return Actor(name="cli:unknown")


@asynccontextmanager
async def open_data(settings: "Settings") -> AsyncGenerator[OperatorData]:
    """Open the data. A new folder is made and migrated, so that keys can be made before the first start.

    Raises:
        ConfigError: the folder cannot be written, or the database has not the schema that this version needs.
        StorageUnavailable: the database cannot be opened.
    """
    from roadworthy.domain.ids import new_id
    from roadworthy.services.audit import AuditTrail
    from roadworthy.services.budgets import Budgets
    from roadworthy.services.keys import Keys
    from roadworthy.services.limits import Limits
    from roadworthy.services.usage import UsageReports
    from roadworthy.storage.audit import SqlAuditLog
    from roadworthy.storage.keys import SqlKeyStore
    from roadworthy.storage.ledger import SqlLedger
    from roadworthy.storage.policies import SqlPolicyStore
    from roadworthy.storage.queue import SqlRunQueue
    from roadworthy.storage.runs import SqlRunStore
    from roadworthy.telemetry.clock import SystemClock

    clock = SystemClock()
    async with open_database(settings) as (folder, database):
        policies = SqlPolicyStore(database, clock)
        ledger = SqlLedger(database)
        yield OperatorData(
            keys=Keys(SqlKeyStore(database, clock), clock, settings.pepper(folder.pepper)),
            runs=SqlRunStore(database),
            queue=SqlRunQueue(database, clock),
            budgets=Budgets(policies, ledger, clock, new_id, settings.time_zone),
            limits=Limits(policies),
            usage=UsageReports(ledger, clock, settings.time_zone),
            audit=AuditTrail(SqlAuditLog(database)),
        )


def agents_state(settings: "Settings") -> "StatePlace":
    """Where agents keep their state, to be looked at beside a server."""
    from roadworthy.cluster import state_place
    from roadworthy.storage.folder import DataFolder

    return state_place(settings, DataFolder(settings.data_dir.absolute()))


@asynccontextmanager
async def open_database(settings: "Settings") -> "AsyncGenerator[tuple[DataFolder, Database]]":
    """The folder and the database, opened. Errors as ``open_data``."""
    from roadworthy import database
    from roadworthy.storage.folder import DataFolder

    folder = DataFolder(settings.data_dir.absolute())
    async with database.open_database(settings, folder) as opened:
        yield folder, opened


async def newest_record(settings: "Settings") -> datetime | None:
    """When the latest run was accepted; None when there is none, or no database that can be read."""
    from roadworthy.database import is_behind, source_of
    from roadworthy.storage.folder import DataFolder
    from roadworthy.storage.runs import SqlRunStore

    try:
        source = source_of(settings, DataFolder(settings.data_dir.absolute()))
        revision = source.revision()
        if is_behind(revision) or source.problem(revision) is not None:
            return None
        async with source.open() as database:
            page = await SqlRunStore(database).list_of_tenant(None, status=None, limit=1, cursor=None)
    except RoadworthyError:
        return None
    return page.items[0].created_at if page.items else None
