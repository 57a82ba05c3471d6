"""Runs that stopped at a tool call of unknown outcome: who may resolve it, and when they go on."""

from dataclasses import replace
from pathlib import Path

import pytest

from roadworthy.domain.errors import Conflict, NeedsReview, NotFound, PermissionDenied
from roadworthy.domain.principal import Principal, Scope
from roadworthy.domain.review import RecordResult, RunAgain, ToolReview
from roadworthy.domain.run import DisconnectPolicy, InputKind, Run, RunStatus
from roadworthy.ports.queue import Accepted
from roadworthy.ports.runtime import Progress
from roadworthy.runtimes.scripted import Fail
from roadworthy.services.runs import CreateRun
from tests.integration.engine.stage import ANN, START, Stage, caller, open_stage, owner, ref_of

CALLS = ("c1", "c2")


async def in_review(stage: Stage) -> Run:
    """A run that stopped at two calls. Another run of the thread had stopped before, at a third."""
    stage.runtime.script((Progress(), Fail(error=NeedsReview("say whether they took effect"))))
    run = await stage.end((await stage.runs.create(caller(), command())).run)
    asked = ToolReview(run_id=run.run_id, tool_call_id="", name="pay", args={}, started_at=START)
    old = replace(asked, tool_call_id="c0", run_id=run.run_id[::-1])
    stage.runtime.reviews[ref_of(run)] = [old, *(replace(asked, tool_call_id=id_) for id_ in CALLS)]
    return run


def command() -> CreateRun:
    return CreateRun(agent=None, thread_id="thread", message="hello", has_input=False, request_id="request")


async def resume(stage: Stage, run: Run) -> Accepted:
    return await stage.runs.resume(
        caller(), run.run_id, None, request_id="request", idempotency=None, on_disconnect=DisconnectPolicy.CONTINUE
    )


async def test_a_run_goes_on_when_all_its_reviews_are_resolved(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        run = await in_review(stage)
        assert [one.tool_call_id for one in await stage.runs.reviews(run)] == ["c1", "c2"]
        with pytest.raises(Conflict, match="c1, c2"):
            await resume(stage, run)
        await stage.runs.resolve(caller(), run.run_id, "c1", RunAgain())
        with pytest.raises(Conflict, match=": c2"):
            await resume(stage, run)
        await stage.runs.resolve(caller(), run.run_id, "c2", RecordResult(result="paid"))
        assert stage.runtime.resolutions == {"c1": RunAgain(), "c2": RecordResult(result="paid")}
        accepted = await resume(stage, run)
        assert accepted.run.request.kind is InputKind.CONTINUE
        assert (await stage.end(accepted.run)).status is RunStatus.SUCCESS


async def test_only_an_open_review_of_the_run_itself_can_be_resolved(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        run = await in_review(stage)
        await stage.runs.resolve(caller(), run.run_id, "c1", RunAgain())
        for call in ("c0", "c1", "nonsense"):
            with pytest.raises(NotFound):
                await stage.runs.resolve(caller(), run.run_id, call, RunAgain())
        assert set(stage.runtime.resolutions) == {"c1"}


async def test_a_run_that_did_not_stop_for_a_review_has_none(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        await in_review(stage)
        fine = await stage.end((await stage.runs.create(caller(), command())).run)
        assert fine.status is RunStatus.SUCCESS
        assert list(await stage.runs.reviews(fine)) == []
        with pytest.raises(Conflict):
            await stage.runs.resolve(caller(), fine.run_id, "c1", RunAgain())


async def test_a_review_belongs_to_the_owner_of_the_run(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        run = await in_review(stage)
        reader = Principal(owner=ANN, scopes=frozenset({Scope.RUNS_READ}))
        with pytest.raises(PermissionDenied):
            await stage.runs.resolve(reader, run.run_id, "c1", RunAgain())
        with pytest.raises(NotFound):
            await stage.runs.resolve(caller(owner("acme", "bob")), run.run_id, "c1", RunAgain())
