"""The pruner's rounds: idempotency records are kept for a day, whatever else goes on."""

import asyncio
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.domain.run import Run
from roadworthy.ports.queue import IdempotencyRecord
from roadworthy.services.retention import keep_pruning
from tests.integration.engine.stage import BOUND, Stage, open_stage, turns
from tests.support.retaining import DAY, retention_of

RECORD = IdempotencyRecord(key="key", body_hash="hash")


async def asked_again(stage: Stage) -> Run:
    return (await stage.worker.submit(stage.run(), idempotency=RECORD)).run


async def test_a_key_is_new_again_after_a_day_and_not_before(
    database_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = asyncio.Semaphore(0)
    failing = [StorageUnavailable("for a moment")]
    async with asyncio.timeout(BOUND), open_stage(database_file) as stage:
        real = stage.queue.prune

        async def prune(before: datetime) -> int:
            rounds.release()
            if failing:
                raise failing.pop()
            return await real(before)

        monkeypatch.setattr(stage.queue, "prune", prune)
        first = await asked_again(stage)
        await stage.end(first)
        async with asyncio.TaskGroup() as group:
            chore = group.create_task(keep_pruning(retention_of(stage), stage.witness, every=timedelta(0)))
            for _ in range(3):
                await rounds.acquire()
            stage.clock.advance(timedelta(hours=23, minutes=59))
            for _ in range(3):
                await rounds.acquire()
            assert (await asked_again(stage)).run_id == first.run_id
            assert "pruned" not in stage.witness.notes
            stage.clock.advance(timedelta(minutes=1, seconds=1))
            while (await asked_again(stage)).run_id == first.run_id:
                await turns()
            while "pruned" not in stage.witness.notes:
                await rounds.acquire()
            chore.cancel()
        assert stage.witness.details["pruned"] == {"idempotency": 1}


async def test_what_a_round_has_removed_is_noted(database_file: Path) -> None:
    async with asyncio.timeout(BOUND), open_stage(database_file) as stage, asyncio.TaskGroup() as group:
        await stage.end(await stage.submit(stage.run()))
        stage.clock.advance(2 * DAY)
        retention = retention_of(stage, threads=DAY)
        chore = group.create_task(keep_pruning(retention, stage.witness, every=timedelta(0)))
        while "pruned" not in stage.witness.notes:
            await turns()
        chore.cancel()
        assert stage.witness.details["pruned"] == {"threads": 1}
