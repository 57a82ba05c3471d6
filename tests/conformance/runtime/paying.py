"""Runs that are played against a budget: a real ledger, the engine's spending and meter, and a model that counts.

Every call costs one nano-USD, so a budget's limit is the number of calls that it allows.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk
from pydantic import Field

from roadworthy.domain.audit import Actor
from roadworthy.domain.budget import Budget, BudgetBalance
from roadworthy.domain.run import InputKind, Run
from roadworthy.domain.usage import ModelCall
from roadworthy.engine.metering import Meter
from roadworthy.engine.settlements import Settlements
from roadworthy.engine.spending import AttemptSpending, Purse, open_spending
from roadworthy.ports.runtime import AgentRuntime, Execution, RuntimeEvent
from roadworthy.storage.ledger import SqlLedger
from roadworthy.storage.policies import SqlPolicyStore
from roadworthy.storage.rates import MemoryRateCounters
from roadworthy.storage.schema import migrate
from roadworthy.storage.sqlite import open_sqlite
from tests.conformance.runtime.playing import OWNER, Played, SystemClock, a_run, play
from tests.support.money import FlatPrices
from tests.support.scripted_model import ScriptedChatModel
from tests.support.telemetry import Deaf

OPERATOR = Actor(name="test")


class CountingModel(ScriptedChatModel):
    """Counts the answers that it begins, as a provider would bill them. Models may share a list, which pydantic copies
    if it knows that it is one.
    """

    billed: Any = Field(default_factory=list)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> Iterator[ChatGenerationChunk]:
        self.billed.append("sync")
        yield from super()._stream(messages, stop, run_manager)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> AsyncIterator[ChatGenerationChunk]:
        self.billed.append("async")
        async for chunk in super()._astream(messages, stop, run_manager):
            yield chunk


@dataclass
class Silent(Deaf):
    """A Telemetry that remembers the names of notes."""

    notes: list[str] = field(default_factory=list[str])

    def worker_note(self, event: str, **fields: str | float | bool | None) -> None:
        """See the port."""
        self.notes.append(event)


@dataclass(frozen=True, kw_only=True)
class Till:
    """One budget, and what plays runs against it."""

    purse: Purse
    policies: SqlPolicyStore
    budget: Budget
    telemetry: Silent = field(default_factory=Silent)

    async def spending(self, run: Run) -> AttemptSpending:
        """What the engine would give to the run's attempt."""
        return await open_spending(run, self.purse, lambda: None)

    async def play(self, runtime: AgentRuntime, run: Run) -> Played:
        """Play an attempt as the engine does: every call is on the ledger in the end."""
        spending = await self.spending(run)
        async with asyncio.TaskGroup() as group:
            meter = self.meter(run, group, spending)

            def hear(_: Execution, event: RuntimeEvent) -> None:
                if isinstance(event, ModelCall):
                    meter.record(event)

            played = await play(runtime, run, spending=spending, on_event=hear)
            for call in played.open_calls:
                meter.record(call)
            await meter.flush()
            await meter.release()
            spending.close()
        return played

    def meter(self, run: Run, group: asyncio.TaskGroup, spending: AttemptSpending) -> Meter:
        """The engine's meter of an attempt."""
        return Meter(
            run,
            group,
            spending=spending,
            ledger=self.purse.ledger,
            rates=MemoryRateCounters(),
            telemetry=self.telemetry,
        )

    async def go_on(self, runtime: AgentRuntime, number: int = 2) -> Played:
        """Play the next run of the thread, which continues where the last one was stopped."""
        return await self.play(runtime, a_run(kind=InputKind.CONTINUE, number=number))

    async def top_up(self, nanos: int) -> None:
        """Allow more."""
        await self.policies.top_up(OWNER.tenant, (await self.balance()).period, nanos, OPERATOR)

    async def balance(self) -> BudgetBalance:
        """How the budget stands."""
        period = self.budget.period_of(OWNER.tenant, self.purse.clock.now())
        (balance,) = await self.purse.ledger.balances(OWNER.tenant, [period])
        return balance


@asynccontextmanager
async def open_till(folder: Path, budget: Budget, prices: FlatPrices | None = None) -> AsyncGenerator[Till]:
    """A migrated database with one budget."""
    path = folder / "money.db"
    await asyncio.to_thread(migrate, path)
    clock = SystemClock()
    async with open_sqlite(path) as database:
        policies = SqlPolicyStore(database, clock)
        await policies.set_budget(budget.tenant, budget, OPERATOR)
        purse = Purse(
            ledger=SqlLedger(database),
            prices=prices or FlatPrices(per_token=0, per_call=1),
            policies=policies,
            clock=clock,
            settlements=Settlements(),
            reserved_output_tokens=100,
        )
        yield Till(purse=purse, policies=policies, budget=budget)
