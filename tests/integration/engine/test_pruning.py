"""Idempotency records are kept for a day, whatever else goes on."""

import asyncio
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from roadworthy import bootstrap
from roadworthy.domain.errors import StorageUnavailable
from roadworthy.domain.run import Run
from roadworthy.ports.queue import IdempotencyRecord
from tests.integration.engine.stage import BOUND, Stage, open_stage, turns

RECORD = IdempotencyRecord(key="key", body_hash="hash")


async def asked_again(stage: Stage) -> Run:
    return (await stage.worker.submit(stage.run(), idempotency=RECORD)).run


async def test_a_key_is_new_again_after_a_day_and_not_before(
    database_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "_PRUNE_EVERY", timedelta(0))
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
        async with asyncio.TaskGroup() as group:
            forgetting = bootstrap._forget_idempotency(stage.queue, stage.clock)  # pyright: ignore[reportPrivateUsage]
            chore = group.create_task(forgetting)
            for _ in range(3):
                await rounds.acquire()
            stage.clock.advance(timedelta(hours=23, minutes=59))
            for _ in range(3):
                await rounds.acquire()
            assert (await asked_again(stage)).run_id == first.run_id
            stage.clock.advance(timedelta(minutes=1, seconds=1))
            while (await asked_again(stage)).run_id == first.run_id:
                await turns()
            chore.cancel()
