"""Kill -9 at every point of a run, in every shape of graph, with both durabilities (catalogue 3 to 9).

The agents are `matrix.py`: model calls and three tools, one that declares nothing, one `idempotent`, one `once`. The
server kills itself at a named point; the case says how often it passes that point before. It is started again, and the
run must end as it would have: at most the calls in flight are billed again, tools take effect as they declare, and
nothing is said or stored twice. A transfer that was cut off asks for a review, is resolved over HTTP, and ends well.

Witnesses are the provider's ledger and the effect log, where graphs also note which answers they have seen. A call is
in flight until then; a tool, until its result is stored or has been sent to the model.

Every server is a process of its own, forked from one that has imported everything (`preloaded.py`): two starts a case
would take seven seconds, and so take one. `make test` runs each point in each shape, with alternating durability and
at alternating passes, so that every pair of point, shape and durability is met. The soak runs the full product, each
at all of its passes:

    pytest -m soak tests/fault/test_crash_matrix.py
"""

import sqlite3
from collections import Counter
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest

from tests.support.invariants import check_invariants
from tests.support.preloaded import Preloaded, PreloadedServer
from tests.support.provider.ledger import LedgerEntry
from tests.support.provider.process import ProviderProcess
from tests.support.provider.script import Rule, ToolUse, Turn
from tests.support.rig import Rig
from tests.support.transcript import Transcript, follow

Shape = Literal["plain", "agent", "subgraph", "fanout"]
Unit = Literal["calls", "tools", "checkpoints", "writes", "once"]
Resolved = Literal["", "with a result", "to run again"]
Said = tuple[str, str, tuple[str, ...]]

SHAPES: tuple[Shape, ...] = ("plain", "agent", "subgraph", "fanout")
DURABILITIES = ("async", "sync")
ERRANDS = ("note", "charge", "transfer")
DONE = {"note": "noted x", "charge": "charged x", "transfer": "transferred x"}
ASKING = {name: f"I will do the {name} without delay." for name in ERRANDS}
REPORT = "Everything that was asked for is done."
SPLITTING, CLOSING = "Three agents will see to it.", "There is nothing more to be said about it."

# How often a run passes points of a kind, at the least.
PASSES: Mapping[Unit, Mapping[Shape, int]] = {
    "calls": {"plain": 4, "agent": 4, "subgraph": 5, "fanout": 8},
    "tools": dict.fromkeys(SHAPES, 3),
    "checkpoints": {"plain": 9, "agent": 9, "subgraph": 12, "fanout": 16},
    "writes": {"plain": 8, "agent": 8, "subgraph": 10, "fanout": 16},
    "once": dict.fromkeys(SHAPES, 1),
}
MOST_PASSES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Where the server dies. ``number``: in the catalogue; ``unit``: what a run passes it with.

    ``bought`` and ``rerun`` are calls and tools that a run with one thing at a time repeats; None: what was in flight.
    ``unseen``: an answer is stored that no graph has seen.
    """

    name: str
    number: str
    unit: Unit
    bought: int | None = 0
    rerun: int | None = 0
    unseen: int = 0


POINTS = (
    Point(name="mid-stream", number="3", unit="calls", bought=1),
    Point(name="before-response", number="3", unit="calls", bought=1),
    Point(name="after-response", number="4", unit="calls", unseen=1),
    Point(name="before-append", number="4", unit="calls", bought=None, rerun=None),
    Point(name="after-append", number="4", unit="calls", bought=None, rerun=None),
    Point(name="before-tool", number="5", unit="tools"),
    Point(name="after-tool-noted", number="6", unit="tools"),
    Point(name="before-effect", number="6", unit="tools", rerun=1),
    Point(name="after-effect", number="7", unit="tools", rerun=1),
    Point(name="before-tool-result", number="7", unit="tools", rerun=1),
    Point(name="after-tool-result", number="5", unit="tools"),
    Point(name="before-writes", number="8", unit="writes", bought=None, rerun=None),
    Point(name="after-writes", number="8", unit="writes", bought=None, rerun=None),
    Point(name="before-checkpoint", number="8", unit="checkpoints", bought=None, rerun=None),
    Point(name="inside-checkpoint", number="8", unit="checkpoints", bought=None, rerun=None),
    Point(name="after-checkpoint", number="8", unit="checkpoints", bought=None, rerun=None),
    Point(name="before-finish", number="8a", unit="once"),
    Point(name="after-finish", number="9", unit="once"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One kill: at the pass number ``skip`` of a point, from 0. Without a point nothing is killed."""

    shape: Shape
    durability: str
    point: Point | None = None
    skip: int = 0

    @property
    def name(self) -> str:
        """As a test's id."""
        where = "undisturbed" if self.point is None else f"{self.point.number}-{self.point.name}-{self.skip}"
        return f"{where}-{self.shape}-{self.durability}"


@dataclass(slots=True, kw_only=True)
class Tally:
    """What the cases of this module came to."""

    kills: int = 0
    undisturbed: int = 0
    billed_again: int = 0
    reviews: int = 0
    again: Counter[str] = field(default_factory=Counter[str])

    def __str__(self) -> str:
        again = ", ".join(f"{name} {self.again[name]}" for name in ERRANDS)
        return (
            f"{self.kills} kills and {self.undisturbed} undisturbed runs; billed again: {self.billed_again} calls; "
            f"begun again: {again}; reviews: {self.reviews}"
        )


@dataclass(slots=True, kw_only=True)
class History:
    """What a case left behind. ``before`` and ``begun``: of the ledger and the effect log when the server was dead."""

    died: bool
    before: Sequence[LedgerEntry]
    answered: int
    begun: Counter[str]
    finished: frozenset[str]
    run: Mapping[str, Any]
    resolved: Resolved
    thread: Mapping[str, Any]
    transcripts: Sequence[Transcript]


@pytest.fixture(scope="module")
def preloaded() -> Generator[Preloaded]:
    with Preloaded() as one:
        yield one


@pytest.fixture(scope="module")
def lasting_provider() -> Generator[ProviderProcess]:
    with ProviderProcess() as one:
        yield one


@pytest.fixture(scope="module")
def tally(pytestconfig: pytest.Config) -> Generator[Tally]:
    one = Tally()
    yield one
    capture: Any = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\n{one}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What cases are run with."""

    preloaded: Preloaded
    provider: ProviderProcess
    folder: Path
    tally: Tally

    async def crash(self, case: Case) -> bool:
        """Run a case and check everything about it. False when the run ended before its point was reached."""
        async with self._rig(case) as rig:
            history = await _play(rig, case)
            _check(rig, case, history, self.tally)
        return history.died

    @asynccontextmanager
    async def _rig(self, case: Case) -> AsyncGenerator[Rig]:
        folder = self.folder / str(case.skip)
        folder.mkdir()
        self.provider.reset()
        slow = case.point is not None and case.point.name == "mid-stream"
        self.provider.script(rules=_rules(ms_per_token=5 if slow else 0))
        async with Rig(folder, self.provider, make_server=partial(PreloadedServer, self.preloaded)) as rig:
            yield rig


@pytest.fixture
def bench(preloaded: Preloaded, lasting_provider: ProviderProcess, tmp_path: Path, tally: Tally) -> Bench:
    return Bench(preloaded=preloaded, provider=lasting_provider, folder=tmp_path, tally=tally)


def selection() -> Iterator[Case]:
    """Every pair of point, shape and durability."""
    for row, point in enumerate(POINTS):
        for column, shape in enumerate(SHAPES):
            skip = (row + 3 * column) % PASSES[point.unit][shape]
            yield Case(shape=shape, durability=DURABILITIES[(row + column) % 2], point=point, skip=skip)


@pytest.mark.parametrize(
    "case", [Case(shape=shape, durability=one) for shape in SHAPES for one in DURABILITIES], ids=lambda case: case.name
)
async def test_an_undisturbed_run_does_everything_once(bench: Bench, case: Case) -> None:
    assert not await bench.crash(case)


@pytest.mark.parametrize("case", tuple(selection()), ids=lambda case: case.name)
async def test_a_killed_run_ends_as_if_nothing_had_happened(bench: Bench, case: Case) -> None:
    assert await bench.crash(case), "the point was not reached"


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("durability", DURABILITIES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("point", POINTS, ids=lambda point: f"{point.number}-{point.name}")
async def test_a_run_may_be_killed_at_every_pass_of_every_point(
    bench: Bench, point: Point, shape: Shape, durability: str
) -> None:
    for skip in range(MOST_PASSES):
        if not await bench.crash(Case(shape=shape, durability=durability, point=point, skip=skip)):
            break
    else:
        pytest.fail("the run never ended")
    assert skip >= PASSES[point.unit][shape]


def _rules(*, ms_per_token: float) -> tuple[Rule, ...]:
    def turn(text: str, *tools: str) -> Turn:
        uses = tuple(ToolUse(name=name, args={"text": "x"}) for name in tools)
        return Turn(text=text, tools=uses, ms_per_token=ms_per_token)

    asking = {name: turn(ASKING[name], name) for name in ERRANDS}
    return (
        *(Rule(when=f"errand {name}", turns=(asking[name], turn(REPORT)), pick="by_position") for name in ERRANDS),
        Rule(when="errands", turns=(*asking.values(), turn(REPORT)), pick="by_position"),
        Rule(when="split", turns=(turn(SPLITTING),), pick="for_ever"),
        Rule(when="close", turns=(turn(CLOSING),), pick="for_ever"),
    )


def _expected(shape: Shape) -> Sequence[Said]:
    """The thread in the end."""

    def errand(name: str) -> list[Said]:
        return [("assistant", ASKING[name], (name,)), ("tool", DONE[name], ())]

    start, report, closing = ("user", "errands", ()), ("assistant", REPORT, ()), ("assistant", CLOSING, ())
    if shape == "fanout":
        errands = [said for name in ERRANDS for said in [("user", f"errand {name}", ()), *errand(name), report]]
        return [start, ("assistant", SPLITTING, ()), *errands, closing]
    in_turn = [start, *(said for name in ERRANDS for said in errand(name)), report]
    return [*in_turn, closing] if shape == "subgraph" else in_turn


async def _play(rig: Rig, case: Case) -> History:
    """Send the message, see the server die, start it again, and see the run to its end."""
    at, env = None if case.point is None else case.point.name, {"CRASH_SKIP": str(case.skip)}
    server = await rig.serve(f"matrix.py:{case.shape}", crash_at=at, env=env)
    body = {"message": "errands", "thread_id": "t", "durability": case.durability, "on_disconnect": "continue"}
    transcript = Transcript()
    async with server.client() as client:
        with suppress(httpx.TransportError):
            async with client.stream("POST", "/agent/stream", json=body) as response:
                async for _ in transcript.read(response):
                    pass
        died = rig.crash_mark.exists()
        if died:
            assert await server.exited() == -9
        before, effects, finished = rig.provider.ledger, rig.effects.read(), _finished_calls(rig)
        if died:
            await server.start()
        run_id = (await rig.only_run())["run_id"]
        run = await rig.final(client, run_id)
        transcripts = [await follow(client, transcript, run_id)]
        resolved: Resolved = ""
        if run.get("reviews"):
            resolved = "with a result" if rig.effects.count("transfer") else "to run again"
            run = await _resume(client, run, resolved)
            transcripts.append(await follow(client, Transcript(), run["run_id"]))
        thread = (await client.get("/agent/threads/t")).json()
    return History(
        died=died,
        before=before,
        answered=len({effect.key for effect in effects if effect.name == "answered"}),
        begun=Counter(effect.name for effect in effects if effect.phase == "begin"),
        finished=finished,
        run=run,
        resolved=resolved,
        thread=thread,
        transcripts=transcripts,
    )


def _finished_calls(rig: Rig) -> frozenset[str]:
    """Tools whose results are stored."""
    file = rig.server.data / "checkpoints.sqlite"
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=10)) as connection:
        found = connection.execute("SELECT name FROM tool_calls WHERE state = 'finished'").fetchall()
    return frozenset(name for (name,) in found)


async def _resume(client: httpx.AsyncClient, run: Mapping[str, Any], resolved: Resolved) -> Mapping[str, Any]:
    """Say what became of the transfer, as somebody would who has looked, and let the thread go on."""
    assert (run["status"], run["error"]["code"]) == ("error", "needs_review"), run
    (review,) = run["reviews"]
    assert (review["name"], review["args"]) == ("transfer", {"text": "x"})
    said = {"result": DONE["transfer"]} if resolved == "with a result" else {"run_again": True}
    path, body = f"/agent/runs/{run['run_id']}", {"tool_call_id": review["tool_call_id"], **said}
    answer = await client.post(f"{path}/resolve", json=body)
    assert (answer.status_code, answer.json()["reviews"]) == (200, []), answer.text
    resumed = await client.post(f"{path}/resume")
    assert resumed.status_code == 200, resumed.text
    return dict(resumed.json())


def _check(rig: Rig, case: Case, history: History, tally: Tally) -> None:
    run, ledger, expected = history.run, rig.provider.ledger, _expected(case.shape)
    texts = [text for role, text, _ in expected if role == "assistant"]
    assert (run["status"], run["response"]) == ("success", texts[-1]), run
    assert _messages(history.thread) == expected
    assert sorted(_shown(history.transcripts)) == sorted(texts)
    extra = _check_calls(case, history, ledger)
    again = _check_tools(rig, case, history)
    check_invariants(rig.server, ledger, transcripts=history.transcripts, in_flight=extra)
    tally.kills += history.died
    tally.undisturbed += not history.died
    tally.billed_again += extra
    tally.reviews += bool(history.resolved)
    tally.again.update(again)


def _check_calls(case: Case, history: History, ledger: Sequence[LedgerEntry]) -> int:
    """What was in flight may be billed again, and nothing else. Returns how many calls were."""
    extra = len(ledger) - PASSES["calls"][case.shape]
    point = case.point if history.died else None
    unseen = 0 if point is None else point.unseen
    in_flight = len(history.before) - history.answered - unseen if history.died else 0
    assert 0 <= extra <= in_flight <= (3 if case.shape == "fanout" else 1), (extra, in_flight)
    bought = 0 if point is None else point.bought
    if case.shape != "fanout" and bought is not None:
        assert extra == bought, extra
    return extra


def _check_tools(rig: Rig, case: Case, history: History) -> Mapping[str, int]:
    """Tools have taken effect as they declare. Returns how often each was begun again."""
    log = rig.effects
    assert len({effect.key for effect in log.read() if effect.name == "charge"}) == 1
    assert log.count("charge") == log.count("transfer") == 1
    again = {name: log.count(name, phase="begin") - 1 for name in ERRANDS}
    for name, times in again.items():
        told = any(_tells_of(case.shape, call, name) for call in history.before)
        cut_off = history.died and history.begun[name] and not told and name not in history.finished
        assert 0 <= times <= bool(cut_off), (name, times)
    assert log.count("note") - 1 <= again["note"]
    assert again["transfer"] <= (history.resolved == "to run again")
    rerun = case.point.rerun if case.point is not None and history.died else 0
    if case.shape != "fanout" and rerun is not None:
        assert sum(again.values()) == (0 if history.resolved == "with a result" else rerun), again
    return again


def _tells_of(shape: Shape, call: LedgerEntry, name: str) -> bool:
    """Whether a model was told the tool's result by this call."""
    if shape == "fanout":
        return call.last_user_text == f"errand {name}" and call.messages > 1
    # Two messages for each errand that is over, behind the user's.
    return call.last_user_text != "errands" or call.messages > 2 * ERRANDS.index(name) + 1


def _messages(thread: Mapping[str, Any]) -> Sequence[Said]:
    return [
        (one["role"], _text(one["content"]), tuple(call["name"] for call in one["tool_calls"]))
        for one in thread["messages"]
    ]


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(block.get("text", "") for block in content)


def _shown(transcripts: Sequence[Transcript]) -> Sequence[str]:
    """What a user is left with, by message: a run that goes on may show again what the one before it has shown."""
    shown: dict[str, str] = {}
    for transcript in transcripts:
        shown.update(transcript.texts())
    return list(shown.values())
