"""A user's data while new runs keep coming, and where a state cannot be read."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from roadworthy.domain.errors import (
    AgentFailed,
    NotFound,
    StorageUnavailable,
    ThreadBusy,
)
from roadworthy.domain.ids import AgentName
from roadworthy.domain.principal import Owner
from roadworthy.domain.run import Run
from roadworthy.domain.thread import ThreadRef, ThreadState
from roadworthy.runtimes.scripted import Gate
from roadworthy.storage.threads import SqlThreadStore
from roadworthy.storage.users import SqlUserRecords
from tests.integration.engine.office import (
    ACTOR,
    ADMIN,
    USER,
    Office,
    furnish,
    open_office,
    talk,
)
from tests.integration.engine.stage import ANN, BOUND, until


@dataclass
class Persistent:
    """Sends a run whenever the user's threads, or items, have just been erased; ``times`` at most."""

    office: Office
    times: int
    ended: bool
    sent: list[Run] = field(default_factory=list[Run])

    async def send(self) -> None:
        if len(self.sent) == self.times:
            return
        stage = self.office.stage
        self.office.runtime.script(talk("again") if self.ended else (Gate(name="never"),))
        run = await stage.submit(stage.run(f"new-{len(self.sent)}"))
        self.sent.append(run)
        if self.ended:
            await stage.end(run)
            await until(lambda: not stage.worker.executing())


def besieged(persistent: Persistent, *, behind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run come right after the threads, or after the items, were erased."""
    if behind == "items":
        inner = persistent.office.runtime.erase_items

        async def erase_items(who: Owner) -> int:
            erased = await inner(who)
            await persistent.send()
            return erased

        monkeypatch.setattr(persistent.office.runtime, "erase_items", erase_items)
        return
    count = SqlUserRecords.count_runs
    counts = iter(range(1_000))

    async def count_runs(self: SqlUserRecords, who: Owner) -> int:
        counted = await count(self, who)
        if next(counts) % 2:  # the second look of a round
            await persistent.send()
        return counted

    monkeypatch.setattr(SqlUserRecords, "count_runs", count_runs)


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("behind", ["threads", "items"])
async def test_an_erasure_takes_what_comes_while_it_goes_on(
    database_file: Path, monkeypatch: pytest.MonkeyPatch, behind: str, ended: bool
) -> None:
    async with open_office(database_file) as office:
        await furnish(office)
        persistent = Persistent(office, times=2, ended=ended)
        besieged(persistent, behind=behind, monkeypatch=monkeypatch)
        async with asyncio.timeout(BOUND):
            erased = await office.erasures.erase(ADMIN, USER, ACTOR)
        assert len(persistent.sent) == 2
        assert erased.threads == 2 + 2
        assert (await SqlThreadStore(office.stage.database).list(ANN, limit=1, cursor=None)).items == []
        for run in persistent.sent:
            with pytest.raises(NotFound):
                await office.stage.row(run)


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("behind", ["threads", "items"])
async def test_an_erasure_does_not_claim_success_while_new_runs_keep_coming(
    database_file: Path, monkeypatch: pytest.MonkeyPatch, behind: str, ended: bool
) -> None:
    async with open_office(database_file) as office:
        await furnish(office)
        persistent = Persistent(office, times=3, ended=ended)
        besieged(persistent, behind=behind, monkeypatch=monkeypatch)
        async with asyncio.timeout(BOUND):
            with pytest.raises(ThreadBusy, match="keep coming"):
                await office.erasures.erase(ADMIN, USER, ACTOR)
            assert (await office.actions())[-1] == "user.erase ann"
            await office.erasures.erase(ADMIN, USER, ACTOR)
        assert (await office.actions())[-1] == "user.erased ann"
        with pytest.raises(NotFound):
            await office.stage.row(persistent.sent[-1])


async def test_a_thread_that_nobody_can_read_is_exported_without_its_state(
    database_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_office(database_file) as office:
        await furnish(office)
        readable = office.runtime.thread_state

        async def thread_state(agent: AgentName, ref: ThreadRef) -> ThreadState:
            if ref.thread_id == "other":
                raise AgentFailed("the thread's state cannot be read: KeyError")
            return await readable(agent, ref)

        monkeypatch.setattr(office.runtime, "thread_state", thread_state)
        *parts, end = await office.export()
        threads = {part["thread_id"]: part for part in parts if part["kind"] == "thread"}
        assert (threads["other"]["unreadable"], threads["other"]["messages"], threads["other"]["values"]) == (
            True,
            None,
            None,
        )
        assert threads["thread"]["unreadable"] is False
        assert len(threads["thread"]["messages"]) == 4
        assert (end["counts"]["threads"], end["counts"]["runs"]) == (2, 5)


async def test_an_export_ends_where_the_database_does_not_answer(
    database_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_office(database_file) as office:
        await furnish(office)

        async def thread_state(agent: AgentName, ref: ThreadRef) -> ThreadState:
            raise StorageUnavailable("the database of checkpoints does not work")

        monkeypatch.setattr(office.runtime, "thread_state", thread_state)
        with pytest.raises(StorageUnavailable):
            await office.export()
