"""Two replicas on one database and one Redis: who follows on one sees what the other one writes, whatever happens."""

import asyncio

from roadworthy.domain.event import RunEnded
from roadworthy.domain.run import RunStatus
from roadworthy.storage.queue import SqlRunQueue
from roadworthy.storage.transaction import Database
from tests.conformance.storage.factories import delta, everything, ids, until
from tests.conformance.storage.log_steps import NEVER, finish, started
from tests.conformance.storage.replicas import replica
from tests.support.valkey import ValkeyServer


async def test_a_reader_on_another_replica_sees_events_live_and_the_end(
    queue: SqlRunQueue, database: Database, valkey: ValkeyServer
) -> None:
    run = await started(queue)
    async with (
        asyncio.timeout(30),
        replica(database, valkey.url, linger=NEVER) as here,
        replica(database, valkey.url) as there,
    ):
        async with asyncio.TaskGroup() as group:
            follower = group.create_task(everything(there, run))
            writer = await here.open(run)
            for text in "abc":
                writer.append(delta(text))
            await until(lambda: there.held_events == 4)
            await finish(queue, run, writer)
        events = follower.result()
    assert ids(events) == ["1-1-1", "1-1-2", "1-1-3", "1-1-4", "1-1-5"]
    assert events[-1].body == RunEnded(status=RunStatus.SUCCESS, error=None)
