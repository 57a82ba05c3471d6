"""The agents of a simulation and the provider that they call, whose own ledger is the witness.

What a run does follows from its id alone. Checkpoints are one for all processes, and fenced as those on Postgres are:
who does not hold the run by its row writes none.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Literal, TypeAlias

from roadworthy.domain.errors import LeaseLost, ProviderUnavailable
from roadworthy.domain.event import ContentDelta
from roadworthy.domain.ids import RunId
from roadworthy.domain.run import Run
from roadworthy.domain.thread import Message
from roadworthy.domain.usage import ModelCall, Tokens
from roadworthy.ports.runtime import Completed, Progress
from roadworthy.runtimes.scripted import Begun, Fail, Gate, Script, ScriptedRuntime, Step
from roadworthy.storage import ledger_statements as sql
from tests.fault.simulation.database import START, Link
from tests.fault.simulation.world import World

Deed: TypeAlias = Callable[[], Awaitable[None]]


class _Deed(asyncio.Event):
    """A gate that is passed when something is done."""

    def __init__(self, what: Deed) -> None:
        super().__init__()
        self._what = what

    async def wait(self) -> Literal[True]:
        """Do it."""
        await self._what()
        return True


@dataclass(slots=True)
class Asked:
    """A call as the provider saw it."""

    call_id: str
    run_id: RunId
    attempt: int
    process: str
    tokens: Tokens


@dataclass(slots=True)
class Work:
    """Something that an attempt has done. ``holder``: the run's attempt by its row then, 0 when it did not run."""

    run_id: RunId
    attempt: int
    process: str
    at: float
    holder: int


@dataclass(slots=True)
class Provider:
    """What is asked of it is billed, whatever becomes of who has asked. ``down``: it answers nobody."""

    world: World
    down: bool = False
    asked: dict[str, Asked] = field(default_factory=dict[str, Asked])
    work: list[Work] = field(default_factory=list[Work])


class Agents(ScriptedRuntime):
    """The agents in one process. ``threads`` of the first one are those of all."""

    def __init__(self, process: str, link: Link, provider: Provider, beside: "Agents | None") -> None:
        super().__init__()
        self._process = process
        self._link = link
        self._provider = provider
        self._deeds: dict[str, Deed] = {}
        self._names = count()
        if beside is not None:
            self._threads = beside._threads
            self._ids = beside._ids

    def gate(self, name: str) -> asyncio.Event:
        """As in ``ScriptedRuntime``; who waits for it does what ``_do`` was told."""
        return _Deed(self._deeds.pop(name))

    def keep(self, run: Run, messages: Sequence[Message]) -> None:
        """As in ``ScriptedRuntime``, if the attempt holds its run."""
        if self._link.server.read(lambda tx: tx.one(sql.LIVE_ATTEMPT, run_id=run.run_id, attempt=run.attempt)) is None:
            raise LeaseLost("another attempt has the run")
        super().keep(run, messages)

    def _do(self, what: Deed) -> Gate:
        gate = Gate(name=f"{next(self._names)}")
        self._deeds[gate.name] = what
        return gate

    def _script_of(self, run: Run) -> Script:
        chance = random.Random(f"{run.run_id}")
        steps: list[Step] = []
        turns = chance.choice([1, 1, 2, 3])
        for turn in range(turns):
            steps += self._turn(run, turn, chance)
            # The last step may not be saved before the end: then it is done again by who takes over.
            if turn < turns - 1 or chance.random() < 0.5:
                steps += [self._do(partial(self._save, run)), Progress()]
        fails = chance.random() < 0.1
        done = Completed(response="done", output=None, structured_response=None)
        return (*steps, Fail(error=ProviderUnavailable("overloaded"))) if fails else (*steps, done)

    def _turn(self, run: Run, turn: int, chance: random.Random) -> Sequence[Step]:
        # Every attempt makes calls of its own; the message is the same.
        name = f"{run.run_id}-{turn}-{run.attempt}"
        tokens = Tokens(input=chance.randint(1, 50), output=chance.randint(1, 50))
        call = ModelCall(
            call_id=name,
            node="model",
            provider="provider",
            model="model",
            tokens=tokens,
            estimated=False,
            outcome="complete",
            started_at=START,
            finished_at=START,
        )
        first, more = chance.uniform(0.01, 3), chance.choice([0.05, 0.5, 2.0, 3.0])
        texts = [f"{name}/{n} " for n in range(chance.randint(1, 8))]
        said: list[Step] = []
        for text in texts:
            said += [self._do(partial(self._work, run, more)), ContentDelta(message_id=name, text=text)]
        return (
            Begun(call=call),
            self._do(partial(self._ask, run, call)),
            self._do(partial(asyncio.sleep, first)),
            *said,
            call,
        )

    async def _ask(self, run: Run, call: ModelCall) -> None:
        assert call.call_id not in self._provider.asked, "a call was made twice"
        self._provider.asked[call.call_id] = Asked(call.call_id, run.run_id, run.attempt, self._process, call.tokens)
        await self._work(run, 0)
        if self._provider.down:
            await asyncio.sleep(1)
            raise ProviderUnavailable("overloaded")

    async def _work(self, run: Run, seconds: float) -> None:
        await asyncio.sleep(seconds)
        row = self._link.server.rows("SELECT status, attempt FROM runs WHERE run_id = ?", run.run_id)[0]
        holder = int(row["attempt"]) if row["status"] == "running" else 0
        now = self._provider.world.now
        self._provider.work.append(Work(run.run_id, run.attempt, self._process, now, holder))

    async def _save(self, run: Run) -> None:
        """A checkpoint needs the database."""
        await self._link.read(lambda tx: tx.one(sql.LIVE_ATTEMPT, run_id=run.run_id, attempt=run.attempt))
