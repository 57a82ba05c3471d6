"""What is kept how long, on a real database with a clock that the test moves."""

import asyncio
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from roadworthy.domain.errors import NotFound
from roadworthy.domain.event import ContentDelta, EventId, RunEnded, RunStarted
from roadworthy.domain.principal import Owner
from roadworthy.domain.run import Run
from roadworthy.domain.thread import ThreadRef
from roadworthy.ports.runtime import Completed, Progress
from roadworthy.runtimes.scripted import Gate, Script
from roadworthy.services.retention import Pruned, keep_pruning
from roadworthy.storage.retention import SqlRetention
from tests.integration.engine.stage import (
    ANN,
    BOUND,
    Stage,
    caller,
    open_stage,
    owner,
    ref_of,
    until,
)
from tests.support.retaining import DAY, HOUR, CountingDatabase, PrunedRuntime, retention_of, values

STRANGER = owner("other", "ann")


def talk(text: str, *, pieces: int = 3) -> Script:
    said = [ContentDelta(message_id="m", text=f"{text}{piece}") for piece in range(pieces)]
    return (*said, Progress(), Completed(response=text, output={"whole": text}, structured_response={"n": 1}))


HELD: Script = (Gate(name="g"), *talk("late"))


async def spoken(stage: Stage, thread: str = "thread", *, pieces: int = 3, who: Owner = ANN) -> Run:
    """A run has ended on the thread."""
    stage.runtime.script(talk("hi", pieces=pieces))
    ended = await stage.end(await stage.submit(stage.run(thread, who=who)))
    await until(lambda: not stage.worker.executing())
    return ended


async def exists(stage: Stage, run: Run) -> bool:
    try:
        await stage.threads.get(caller(run.owner), run.thread_id)
        await stage.row(run)
    except NotFound:
        return False
    return True


async def test_threads_go_when_they_were_not_used_for_long_enough(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        retention = retention_of(stage, threads=30 * DAY)
        old, used = await spoken(stage, "old"), await spoken(stage, "used")
        stage.clock.advance(29 * DAY)
        again = await spoken(stage, "used")
        theirs = await spoken(stage, "old", who=STRANGER)
        assert (await retention.prune_once()).threads == 0
        stage.clock.advance(DAY + HOUR)
        assert (await retention.prune_once()).threads == 1
        assert not await exists(stage, old)
        assert (await stage.runtime.thread_state(old.agent, ref_of(old))).messages == ()
        assert await stage.log.read(old) == []
        for run in (used, again, theirs):
            assert await exists(stage, run)
        assert (await stage.runtime.thread_state(theirs.agent, ref_of(theirs))).messages != ()


async def test_without_a_limit_no_thread_goes(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        run = await spoken(stage)
        stage.clock.advance(10_000 * DAY)
        assert (await retention_of(stage).prune_once()).threads == 0
        assert await exists(stage, run)


async def test_a_thread_with_a_run_under_way_is_left_alone_however_old(database_file: Path) -> None:
    runtime = PrunedRuntime()
    async with open_stage(database_file, runtime=runtime) as stage:
        retention = retention_of(stage, threads=DAY, events=DAY, outputs=1, checkpoints=1)
        first, second = await spoken(stage), await spoken(stage)
        runtime.script(HELD)
        held = await stage.submit(stage.run(timeout=100 * DAY))
        waiting = await stage.submit(stage.run("waits", timeout=100 * DAY))
        await stage.end(waiting)
        stage.clock.advance(HOUR)
        assert await retention.prune_once() == Pruned()
        assert [ref.thread_id for ref in runtime.pruned] == ["waits"]
        stage.clock.advance(9 * DAY)
        pruned = await retention.prune_once()
        # Events are those of runs that have ended, nobody's state.
        assert (pruned.threads, pruned.outputs, pruned.checkpoints) == (1, 0, 0)
        assert (await stage.row(first)).result.output is not None
        runtime.gate("g").set()
        assert (await stage.end(held)).result.response == "late"
        pruned = await retention.prune_once()
        assert (pruned.threads, pruned.outputs) == (0, 2)
        assert [(await stage.row(run)).result.output for run in (first, second)] == [None, None]
        assert (await stage.row(held)).result.output == {"whole": "late"}


async def test_old_events_go_and_a_replay_begins_and_ends_as_it_always_did(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        retention = retention_of(stage, events=30 * DAY)
        long, short = await spoken(stage, "long", pieces=1_300), await spoken(stage, "short", pieces=0)
        before = {run.run_id: await stage.events(run) for run in (long, short)}
        stage.clock.advance(15 * DAY)
        young = await spoken(stage, "young")
        whole = await stage.events(young)
        assert (await retention.prune_once()).events == 0
        stage.clock.advance(15 * DAY + HOUR)
        # All but the first one and the last one's place.
        assert (await retention.prune_once()).events == 1_300 - 1
        assert (await retention.prune_once()).events == 0
        assert await stage.events(young) == whole
        for run in (long, short):
            first, *_, last = before[run.run_id]
            replayed = await stage.events(run)
            assert [first, last] == replayed
            assert isinstance(first.body, RunStarted)
            assert isinstance(last.body, RunEnded)
            assert await stage.row(run) == run
        stage.clock.advance(30 * DAY)
        await retention.prune_once()
        assert len(await stage.events(young)) == 2


@pytest.mark.parametrize("seen", [1, 2, 700, 1_301])
async def test_who_comes_back_after_the_events_have_gone_is_told_the_end(database_file: Path, seen: int) -> None:
    async with open_stage(database_file) as stage:
        run = await spoken(stage, pieces=1_300)
        *_, end = await stage.events(run)
        stage.clock.advance(31 * DAY)
        await retention_of(stage, events=30 * DAY).prune_once()
        async with asyncio.timeout(BOUND):
            rest = [batch async for batch in stage.log.follow(run, after=EventId(run.ord, 1, seen))]
            assert [list(batch) for batch in rest] == [[end]]
            assert [batch async for batch in stage.log.follow(run, after=end.id)] == []


async def test_only_the_latest_runs_of_a_thread_keep_their_output(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        retention = retention_of(stage, outputs=2)
        runs = [await spoken(stage) for _ in range(45)]
        other = [await spoken(stage, "other"), await spoken(stage, "thread", who=STRANGER)]
        stage.clock.advance(25 * HOUR)
        assert (await retention.prune_once()).outputs == 43
        rows = [await stage.row(run) for run in runs]
        assert [row.result.output for row in rows] == [None] * 43 + [{"whole": "hi"}] * 2
        for row, run in zip(rows, runs, strict=True):
            kept = (row.result.response, row.result.structured_response, row.result.usage, row.status)
            assert kept == (run.result.response, run.result.structured_response, run.result.usage, run.status)
        assert [await stage.row(run) for run in other] == other
        newest = await spoken(stage)
        assert (await retention.prune_once()).outputs == 1
        assert (await stage.row(runs[43])).result.output is None
        assert (await stage.row(newest)).result.output is not None


async def test_an_output_stays_for_as_long_as_a_repeated_request_may_ask_for_it(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        counting = CountingDatabase(stage.database)
        retention = retention_of(stage, outputs=1, database=counting)
        early = [await spoken(stage) for _ in range(10)]
        stage.clock.advance(12 * HOUR)
        late = [await spoken(stage) for _ in range(3)]

        async def trimmed() -> tuple[int, int]:
            rows = [[(await stage.row(run)).result.output is None for run in runs] for runs in (early, late)]
            return sum(rows[0]), sum(rows[1])

        assert (await retention.prune_once()).outputs == 0
        stage.clock.advance(HOUR)
        assert (await retention.prune_once()).outputs == 0
        stage.clock.advance(10 * HOUR)
        counting.changes.clear()
        assert (await retention.prune_once()).outputs == 0
        assert (await trimmed(), counting.changes) == ((0, 0), [])
        # Nobody has used the thread since.
        stage.clock.advance(13 * HOUR)
        assert (await retention.prune_once()).outputs == 12
        assert await trimmed() == (10, 2)
        assert (await retention.prune_once()).outputs == 0


async def test_a_young_run_in_between_does_not_keep_the_older_ones_whole(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        early = [await spoken(stage) for _ in range(10)]
        stage.clock.advance(25 * HOUR)
        late = [await spoken(stage) for _ in range(3)]
        assert (await retention_of(stage, outputs=1).prune_once()).outputs == 10
        assert [(await stage.row(run)).result.output is None for run in (*early, *late)] == [True] * 10 + [False] * 3
        # Another process, after the last one's position.
        stage.clock.advance(25 * HOUR)
        assert (await retention_of(stage, outputs=1).prune_once()).outputs == 2


async def test_only_threads_that_were_used_since_are_looked_at(database_file: Path) -> None:
    runtime = PrunedRuntime()
    async with open_stage(database_file, runtime=runtime) as stage:
        counting = CountingDatabase(stage.database)
        retention = retention_of(stage, checkpoints=1, database=counting)
        for name in ("a", "b", "c"):
            await spoken(stage, name)
        assert (await retention.prune_once()).checkpoints == 0
        assert [ref.thread_id for ref in runtime.pruned] == ["a", "b", "c"]
        stage.clock.advance(HOUR)
        # Once more: what was stored at that very moment may have been missed.
        await retention.prune_once()
        runtime.pruned.clear()
        stage.clock.advance(HOUR)
        counting.changes.clear()
        assert await retention.prune_once() == Pruned()
        assert runtime.pruned == []
        # An idle server writes nothing.
        assert counting.changes == []
        await spoken(stage, "b")
        stage.clock.advance(HOUR)
        assert (await retention.prune_once()).checkpoints == 1
        assert [ref.thread_id for ref in runtime.pruned] == ["b"]


async def test_a_new_process_goes_on_where_the_last_one_was(database_file: Path) -> None:
    runtime = PrunedRuntime()
    async with open_stage(database_file, runtime=runtime) as stage:
        clock = stage.clock
        await spoken(stage, "a")
        clock.advance(HOUR)
        await spoken(stage, "b")
        await retention_of(stage).prune_once()
        clock.advance(HOUR)
        await spoken(stage, "c")
        await stage.worker.drain()
    runtime.pruned.clear()
    async with open_stage(database_file, runtime=runtime, clock=clock) as stage:
        await retention_of(stage).prune_once()
        assert [ref.thread_id for ref in runtime.pruned] == ["b", "c"]


async def test_one_thread_that_cannot_be_pruned_does_not_keep_the_others(database_file: Path) -> None:
    runtime = PrunedRuntime()
    async with open_stage(database_file, runtime=runtime) as stage:
        bad, good = await spoken(stage, "bad"), await spoken(stage, "good")
        runtime.unreadable = [ref_of(bad)]
        await spoken(stage, "good")
        pruned = await retention_of(stage, checkpoints=1).prune_once()
        assert (pruned.failed, pruned.checkpoints) == (1, 1)
        assert runtime.pruned == [ref_of(bad), ref_of(good)]
        assert stage.witness.details["thread_not_pruned"] == {
            "tenant": "acme",
            "thread_id": "bad",
            "error": "OperationalError",
        }


async def test_a_pass_is_given_up_when_nothing_can_be_pruned_and_that_is_logged(database_file: Path) -> None:
    runtime = PrunedRuntime()
    async with open_stage(database_file, runtime=runtime) as stage:
        bad, good = await spoken(stage, "bad"), await spoken(stage, "good")
        runtime.unreadable = [ref_of(bad)]
        runtime.problem = "the database of checkpoints does not work"
        retention = retention_of(stage, checkpoints=1)
        pruning = asyncio.create_task(keep_pruning(retention, stage.witness, every=timedelta(0)))  # noqa: TID251
        try:
            await until(lambda: "pruning_given_up" in stage.witness.notes)
            assert ref_of(good) not in runtime.pruned
            runtime.problem = None
            await until(lambda: ref_of(good) in runtime.pruned)
        finally:
            pruning.cancel()
        assert stage.witness.details["pruning_given_up"] == {"error": "the database of checkpoints does not work"}


async def test_a_thread_s_rows_go_in_short_transactions(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        counting = CountingDatabase(stage.database)
        run = await spoken(stage, pieces=2_000)
        for _ in range(60):
            await spoken(stage, pieces=1)
        stage.clock.advance(2 * DAY)
        assert (await retention_of(stage, threads=DAY, database=counting).prune_once()).threads == 1
        assert max(counting.changes) <= 600
        assert len(counting.changes) >= 7
        assert not await exists(stage, run)
        left = ("(SELECT count(*) FROM runs)", "(SELECT count(*) FROM events)", "(SELECT count(*) FROM threads)")
        assert await stage.database.read(partial(values, expressions=left)) == (0, 0, 0)


async def test_runs_go_on_while_a_backlog_is_pruned(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        for name in range(12):
            await spoken(stage, f"old-{name}", pieces=2_000)
        stage.clock.advance(31 * DAY)
        counting = CountingDatabase(stage.database)
        retention = retention_of(stage, events=30 * DAY, threads=31 * DAY, database=counting)
        async with asyncio.TaskGroup() as group:
            pruning = group.create_task(retention.prune_once())
            await until(lambda: len(counting.changes) > 2)
            ended = [await spoken(stage, "new") for _ in range(5)]
            # Five runs, one after the other, while the backlog is worked off.
            assert not pruning.done()
        assert pruning.result().events == 12 * 1_999
        assert max(counting.changes) <= 600
        assert [run.result.response for run in ended] == ["hi"] * 5


async def test_a_thread_that_is_used_at_the_last_moment_stays(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        run = await spoken(stage)
        stage.clock.advance(2 * DAY)
        before = stage.clock.now() - DAY
        await spoken(stage)
        assert not await stage.threads.remove(ref_of(run), unused_since=before)
        assert await exists(stage, run)


async def test_a_thread_on_which_a_run_waits_is_not_idle(database_file: Path) -> None:
    """It may be the rollback of the latest run, which has not begun yet."""
    async with open_stage(database_file) as stage:
        run = await spoken(stage)
        store = SqlRetention(stage.database)
        ref = ThreadRef(owner=run.owner, thread_id=run.thread_id)
        assert await store.idle(ref)
        await stage.queue.accept(stage.run(), claim_for=None, max_pending=9, idempotency=None)
        assert not await store.idle(ref)
