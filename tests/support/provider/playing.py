"""Plays one turn to one client: pacing, holds, faults, and the ledger entry that goes with them."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping

from tests.support.provider.answers import Answer, respond_error
from tests.support.provider.errors import ApiError
from tests.support.provider.ledger import Ledger
from tests.support.provider.rendering import Plan, Step, stream_steps
from tests.support.provider.script import Fault, Point
from tests.support.provider.wire import Connection

_PING_SECONDS = 0.05


class Gates:
    """Where held calls wait; a release that comes before its call is kept for it."""

    def __init__(self) -> None:
        self._gates: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(0))

    async def wait(self, gate: str) -> None:
        """Wait for one release of `gate`."""
        await self._gates[gate].acquire()

    def release(self, gate: str) -> None:
        """Let one call pass `gate`."""
        self._gates[gate].release()

    def reset(self) -> None:
        """Forget releases for which no call came."""
        self._gates.clear()


class Playing:
    """One call being answered."""

    def __init__(
        self,
        *,
        plan: Plan,
        answer: Answer,
        connection: Connection,
        headers: Mapping[str, str],
        ledger: Ledger,
        gates: Gates,
    ) -> None:
        self._plan = plan
        self._answer = answer
        self._connection = connection
        self._headers = headers
        self._ledger = ledger
        self._gates = gates
        self._fault = plan.turn.fault
        self._hold = plan.turn.hold
        self._tokens = 0
        self._tool_json_tokens = 0

    async def play(self) -> None:
        """Answer to the end or to the fault; the ledger entry is closed unless the client leaves first."""
        turn = self._plan.turn
        # Billed from acceptance: the real provider has begun to work, whether or not the client stays.
        self._bill_input()
        await asyncio.sleep(turn.first_byte_ms / 1000)
        await self._hold_if(self._hold is not None and self._hold.at == "first_byte")
        if self._fault is not None and self._fault.at == "first_byte":
            await self._fail_before_answer(self._fault)
            return
        await self._answer.begin()
        for step in stream_steps(self._plan):
            await self._hold_if(self._hold is not None and self._is_due(self._hold.at, step))
            if self._fault is not None and self._is_due(self._fault.at, step):
                await self._fail_in_answer(self._fault)
                return
            if step.tokens:
                await asyncio.sleep(turn.ms_per_token / 1000)
            if step.event["type"] == "message_stop":
                self._close("complete")
            await self._answer.send(step.event)
            self._count(step)
        await self._answer.complete()

    def _close(self, outcome: str) -> None:
        # Before the last bytes leave, so that a client that has read them finds the entry closed.
        fault = self._fault
        self._ledger.close(self._plan.call_id, outcome, fault.message if fault else None)

    def _is_due(self, at: Point, step: Step) -> bool:
        kind = step.event["type"]
        if kind == "message_start":
            return False
        if kind == "message_delta":
            return True
        match at:
            case int():
                return self._tokens >= at
            case "tool_json":
                return self._tool_json_tokens > 0
            case _:
                return False

    def _bill_input(self) -> None:
        turn = self._plan.turn
        self._ledger.update(
            self._plan.call_id,
            input_tokens=self._plan.input_tokens,
            cache_read_tokens=turn.cache_read_tokens,
            cache_creation_tokens=turn.cache_creation_tokens,
        )

    def _count(self, step: Step) -> None:
        if step.tokens:
            self._tokens += step.tokens
            self._tool_json_tokens += step.tokens if step.is_tool_json else 0
            self._ledger.update(self._plan.call_id, output_tokens=self._tokens)
        elif step.event["type"] == "message_delta":
            plan = self._plan
            self._ledger.update(plan.call_id, stop_reason=plan.stop_reason, output_tokens=plan.output_tokens)

    async def _hold_if(self, due: bool) -> None:
        if not due or self._hold is None:
            return
        gate = self._hold.gate
        self._hold = None
        self._ledger.update(self._plan.call_id, held=True)
        await self._gates.wait(gate)
        self._ledger.update(self._plan.call_id, held=False)

    async def _fail_before_answer(self, fault: Fault) -> None:
        match fault.kind:
            case "error":
                self._ledger.update(self._plan.call_id, input_tokens=0, cache_read_tokens=0, cache_creation_tokens=0)
                self._close(f"error:{fault.status}")
                await respond_error(self._connection, _api_error(fault), self._headers)
            case "reset" | "silence":
                await self._fail_in_answer(fault)
            case "cut" | "pings" | "garbage":
                await self._answer.begin()
                await self._fail_in_answer(fault)

    async def _fail_in_answer(self, fault: Fault) -> None:
        match fault.kind:
            case "error":
                self._close(f"error:{fault.status}")
                await self._answer.fail(_api_error(fault))
            case "cut":
                self._close("cut")
                await self._answer.cut()
            case "garbage":
                self._close("garbage")
                await self._answer.garbage()
            case "reset":
                self._close("reset")
                self._connection.reset()
            case "silence":
                await asyncio.Event().wait()
            case "pings":
                await self._ping_for_ever()

    async def _ping_for_ever(self) -> None:
        while True:
            await self._answer.send({"type": "ping"})
            await asyncio.sleep(_PING_SECONDS)


def _api_error(fault: Fault) -> ApiError:
    return ApiError(status=fault.status, message=fault.message, retry_after=fault.retry_after)
