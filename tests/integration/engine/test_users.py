"""All that is kept of one user: handed out whole and to nobody else's harm, and erased."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from roadworthy.domain.errors import (
    Conflict,
    NotFound,
    PermissionDenied,
    ThreadBusy,
    Unauthenticated,
)
from roadworthy.domain.ids import UserId
from roadworthy.domain.principal import Principal, Scope
from roadworthy.domain.run import Run, RunStatus
from roadworthy.runtimes.scripted import Gate
from roadworthy.services.users import Erased, UserErasures
from roadworthy.storage.threads import SqlThreadStore
from roadworthy.storage.users import SqlUserRecords
from tests.integration.engine.office import (
    ACTOR,
    ADMIN,
    BOB,
    STRANGER,
    USER,
    furnish,
    open_office,
    spoken,
    talk,
)
from tests.integration.engine.stage import ANN, BOUND, caller


async def test_an_export_holds_all_of_a_user_and_nothing_of_others(database_file: Path) -> None:
    async with open_office(database_file) as office:
        runs = await furnish(office)
        key = await office.keys.create(ANN, ACTOR, name="laptop")
        first, *parts, last = await office.export()
        assert (first["kind"], first["tenant"], first["user"], first["states"]) == ("export", "acme", "ann", True)
        assert last == {
            "kind": "end",
            "counts": {"keys": 1, "threads": 2, "runs": 5, "idempotency_keys": 5, "items": 1, "model_calls": 5},
        }
        assert len(parts) == sum(last["counts"].values())

        def of(kind: str) -> list[dict[str, Any]]:
            return [part for part in parts if part["kind"] == kind]

        (exported,) = of("key")
        assert (exported["key_id"], exported["name"]) == (key.key.key_id, "laptop")
        assert {part["run_id"] for part in of("run")} == {run.run_id for run in runs}
        for part in of("run"):
            (run,) = [run for run in runs if run.run_id == part["run_id"]]
            assert part["request"]["payload"] == run.request.payload
            assert (part["result"]["response"], part["status"]) == (run.result.response, "success")
            types = [event["type"] for event in part["events"]]
            assert types == ["run_started", "content_delta", "usage_reported"]
            assert part["events"][1]["data"]["text"] == run.result.response
        contents = {part["thread_id"]: [one["content"] for one in part["messages"]] for part in of("thread")}
        assert contents["thread"] == ["hello", "mine-1", "hello", "mine-3"]
        assert {part["key"] for part in of("idempotency_key")} == {f"sent-mine-{n}" for n in range(5)}
        assert [part["value"] for part in of("item")] == [{"text": "item of ann"}]
        assert sorted(part["call_id"] for part in of("model_call")) == [f"call-mine-{n}" for n in range(5)]

        text = str([first, *parts, last])
        for foreign in ("secret", "item of bob", "item of stranger", "key of"):
            assert foreign not in text
        for secret in (key.text, key.key.digest.hex(), "digest", "hash-"):
            assert secret not in text
        assert (await office.actions())[-1] == "user.export ann"


async def test_an_export_of_nobody_is_empty(database_file: Path) -> None:
    async with open_office(database_file) as office:
        begin, end = await office.export(UserId("nobody"))
        assert (begin["user"], set(end["counts"].values())) == ("nobody", {0})


async def test_many_threads_runs_and_calls_are_exported_once_each(database_file: Path) -> None:
    async with open_office(database_file) as office:
        many = [await spoken(office, f"{n}", thread="many" if n % 2 else f"t{n}") for n in range(230)]
        *parts, end = await office.export()
        assert end["counts"] == {
            "keys": 0,
            "threads": 116,
            "runs": 230,
            "idempotency_keys": 230,
            "items": 0,
            "model_calls": 230,
        }
        assert {part["run_id"] for part in parts if part["kind"] == "run"} == {run.run_id for run in many}
        assert len({part["call_id"] for part in parts if part["kind"] == "model_call"}) == 230


async def test_who_is_erased_leaves_bills_and_nothing_else(database_file: Path) -> None:
    async with open_office(database_file) as office:
        runs = await furnish(office)
        key = await office.keys.create(ANN, ACTOR)
        others = [await office.exports.begin_for(who, ACTOR) for who in (BOB, STRANGER)]
        before = [[part async for part in parts][1:] for parts in others]
        erased = await office.erasures.erase(ADMIN, USER, ACTOR)
        assert erased == Erased(threads=2, runs=5, items=1, keys=1)
        for run in runs:
            with pytest.raises(NotFound):
                await office.stage.row(run)
            assert await office.stage.log.read(run) == []
            assert len(await office.stage.ledger.of_run(ANN, run.run_id)) == 1
        with pytest.raises(Unauthenticated):
            await office.keys.authenticate(key.text)
        *_, end = await office.export()
        assert end["counts"] == {
            "keys": 1,
            "threads": 0,
            "runs": 0,
            "idempotency_keys": 0,
            "items": 0,
            "model_calls": 5,
        }
        others = [await office.exports.begin_for(who, ACTOR) for who in (BOB, STRANGER)]
        assert [[part async for part in parts][1:] for parts in others] == before
        assert [line for line in await office.actions() if "ann" in line or "revoke" in line] == [
            "user.erase ann",
            f"key.revoke {key.key.key_id}",
            "user.erased ann",
            "user.export ann",
        ]
        assert await office.erasures.erase(ADMIN, USER, ACTOR) == Erased(threads=0, runs=0, items=0, keys=0)


async def test_unfinished_runs_are_stopped_first(database_file: Path) -> None:
    async with open_office(database_file) as office:
        office.runtime.script((Gate(name="never"),))
        stage = office.stage
        running = await stage.submit(stage.run())
        behind = await stage.submit(stage.run())
        office.runtime.script((Gate(name="bobs"), *talk("bob")))
        bobs = await stage.submit(stage.run(who=BOB))
        async with asyncio.timeout(BOUND):
            erased = await office.erasures.erase(ADMIN, USER, ACTOR)
        assert erased == Erased(threads=1, runs=2, items=0, keys=0)
        for run in (running, behind):
            with pytest.raises(NotFound):
                await stage.row(run)
        office.runtime.gate("bobs").set()
        assert (await stage.end(bobs)).status is RunStatus.SUCCESS


async def test_a_run_that_does_not_end_is_told_and_its_thread_stays(database_file: Path) -> None:
    async with open_office(database_file, patience=timedelta(milliseconds=50)) as office:
        stage = office.stage

        class Deaf:
            async def stop(self, run: Run, reason: object) -> Run:
                return run

        office.runtime.script((Gate(name="go"), *talk("late")))
        run = await stage.submit(stage.run())
        deaf = UserErasures(
            records=SqlUserRecords(stage.database, stage.clock),
            stored=SqlThreadStore(stage.database),
            threads=stage.threads,
            log=stage.log,
            keys=office.keys,
            stopper=Deaf(),
            runtime=office.runtime,
            patience=timedelta(milliseconds=50),
        )
        with pytest.raises(ThreadBusy, match="does not end"):
            await deaf.erase(ADMIN, USER, ACTOR)
        assert (await stage.threads.get(caller(), "thread")).thread.active_run == run.run_id
        office.runtime.gate("go").set()
        await stage.end(run)


async def test_nobody_is_erased_with_a_key_of_the_same_user(database_file: Path) -> None:
    async with open_office(database_file) as office:
        key = await office.keys.create(ANN, ACTOR, scopes=frozenset({Scope.ADMIN}))
        await spoken(office, "hi")
        with pytest.raises(Conflict, match="another admin"):
            await office.erasures.erase(await office.keys.authenticate(key.text), USER, ACTOR)
        assert (await office.keys.authenticate(key.text)).owner == ANN
        assert (await office.export())[-1]["counts"]["threads"] == 1


@pytest.mark.parametrize("scope", sorted(set(Scope) - {Scope.ADMIN}))
async def test_only_admins_may_do_either(database_file: Path, scope: Scope) -> None:
    async with open_office(database_file) as office:
        other = Principal(owner=ADMIN.owner, scopes=frozenset({scope}))
        with pytest.raises(PermissionDenied):
            await office.exports.begin(other, USER, ACTOR)
        with pytest.raises(PermissionDenied):
            await office.erasures.erase(other, USER, ACTOR)
        assert await office.actions() == []


async def test_an_erasure_that_was_cut_off_is_finished_by_the_next_one(database_file: Path) -> None:
    async with open_office(database_file) as office:
        await furnish(office)
        stage = office.stage
        # The rows of a thread are gone, its checkpoints are not yet, and nobody has asked again.
        stored = SqlThreadStore(stage.database)
        (thread, *_) = (await stored.list(ANN, limit=1, cursor=None)).items
        assert await stored.erase(thread.ref)
        await office.erasures.erase(ADMIN, USER, ACTOR)
        assert await stored.unfinished_erasures() == []
        assert (await office.runtime.thread_state(thread.agent, thread.ref)).messages == ()


async def test_an_export_may_be_left_early(database_file: Path) -> None:
    async with open_office(database_file) as office:
        await furnish(office)
        parts = await office.exports.begin(ADMIN, USER, ACTOR)
        async for _ in parts:
            break
        await parts.aclose()
        assert [part async for part in parts] == []
