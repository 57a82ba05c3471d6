"""Whether the process can serve: what is wrong, by name. Behind ``/readyz`` and ``doctor``."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from roadworthy.ports.dispatch import Dispatcher

Probe = Callable[[], Awaitable[str | None]]
Trouble = Callable[[], str | None]

# Seconds; more than those that probes have of their own.
_PATIENCE = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """``name`` is the part at fault (database, checkpoints, draining, slots, provider), ``detail`` is safe to show."""

    name: str
    detail: str


class Readiness:
    """``probes`` return None when their part is well, else what is wrong; they never raise. So do those of ``outside``,
    of which the process can do without.
    """

    def __init__(
        self, dispatcher: Dispatcher, probes: Mapping[str, Probe], outside: Mapping[str, Trouble] | None = None
    ) -> None:
        self._dispatcher = dispatcher
        self._probes = probes
        self._outside = outside or {}
        self._asking: dict[str, asyncio.Task[str | None]] = {}

    @property
    def draining(self) -> bool:
        """Whether the process is shutting down."""
        return self._dispatcher.draining

    async def problems(self) -> Sequence[Problem]:
        """Why traffic should go elsewhere; empty when it need not."""
        if self.draining:
            return [Problem(name="draining", detail="the server is shutting down")]
        found = [Problem(name="slots", detail="every slot is held by threads of ended runs")] * self._dispatcher.stuck()
        # At once: each may take its time to find that nobody answers.
        details = await asyncio.gather(*(self._asked(name) for name in self._probes))
        named = zip(self._probes, details, strict=True)
        return [*found, *(Problem(name=name, detail=detail) for name, detail in named if detail is not None)]

    def degraded(self) -> Sequence[Problem]:
        """What is wrong outside of this process: a model provider's trouble does not make the server unready."""
        troubles = {"provider": self._dispatcher.provider_trouble, **self._outside}
        return [Problem(name=name, detail=detail) for name, of in troubles.items() if (detail := of()) is not None]

    async def _asked(self, name: str) -> str | None:
        """What a probe says. One that is slow even to give up is not waited for: a later caller hears of it."""
        task = self._asking.get(name)
        if task is None:
            # Owned here: whoever finds it done takes it away.
            task = self._asking[name] = asyncio.get_running_loop().create_task(_told(self._probes[name]))
        await asyncio.wait({task}, timeout=_PATIENCE)
        if not task.done():
            return f"it did not answer within {_PATIENCE:g} s"
        self._asking.pop(name, None)
        return task.result()


async def _told(probe: Probe) -> str | None:
    return await probe()
