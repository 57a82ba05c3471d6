"""One server under test with its witnesses: the provider, the effect log and the gates of its tools.

``Witnesses`` is what does not depend on how many servers there are: ``fleet.py`` has several.
"""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import httpx

from tests.support.effects import EffectLog, Phase
from tests.support.provider.process import ProviderProcess
from tests.support.server import ServerProcess

AGENTS = Path(__file__).parent / "agents"
NANOS = 1_000_000_000
FINAL = {"success", "error", "timeout", "cancelled", "interrupted"}


class Witnesses:
    """What tells of servers from outside, in one folder, and what their tools wait for."""

    def __init__(self, folder: Path, provider: ProviderProcess) -> None:
        self.folder = folder
        self.provider = provider
        self.effects = EffectLog(folder / "effects.jsonl")
        self.gates = folder / "gates"
        self.gates.mkdir()
        self.crash_mark = folder / "crashed"

    def agent(self, name: str, crash_at: str | None = None) -> tuple[str, dict[str, str]]:
        """The target of an agent of `tests/support/agents`, and the environment that it needs. The first server that
        gets to ``crash_at`` kills itself there.
        """
        environment = {
            "PROVIDER_URL": self.provider.url,
            "EFFECTS": str(self.folder / "effects.jsonl"),
            "GATES": str(self.gates),
            "CRASH_MARK": str(self.crash_mark),
            "ROADWORTHY_LOG_FORMAT": "json",
        }
        if crash_at is not None:
            name = name.replace("claude.py", "crashing.py")
            environment["CRASH_AT"] = crash_at
        return str(AGENTS / name), environment

    async def set_budget(
        self, client: httpx.AsyncClient, nanos: int, *, scope: str = "tenant", subject: str | None = None
    ) -> str:
        """Limit what may be spent from now on, for ever (of each run, where the scope is `run`); the budget's id."""
        window = "run" if scope == "run" else "total"
        body = {"scope": scope, "subject": subject, "window": window, "limit_usd": f"{nanos / NANOS:.9f}"}
        answer = await client.put("/admin/budgets", json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["budget_id"])

    def open_gate(self, name: str) -> None:
        """Let the tool that waits for `name` go on, now and later."""
        (self.gates / name).touch()

    async def effect(self, name: str, *, phase: Phase = "effect", count: int = 1, seconds: float = 20) -> None:
        """Until tool `name` has reached `phase` so often."""
        await self.until(lambda: self.effects.count(name, phase=phase) >= count, seconds)

    async def final(self, client: httpx.AsyncClient, run_id: str, seconds: float = 30) -> dict[str, Any]:
        """A run, once it is final."""
        async with asyncio.timeout(seconds):
            while True:
                try:
                    run = (await client.get(f"/agent/runs/{run_id}")).json()
                    if run.get("status") in FINAL:
                        return run
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.02)

    async def not_ready(self, client: httpx.AsyncClient, seconds: float = 10) -> None:
        """Until the server says that traffic should go elsewhere."""
        await self._readiness(client, 503, seconds)

    async def ready(self, client: httpx.AsyncClient, seconds: float = 10) -> None:
        """Until the server asks for traffic: what it says is up to a second old."""
        await self._readiness(client, 200, seconds)

    async def _readiness(self, client: httpx.AsyncClient, status: int, seconds: float) -> None:
        async with asyncio.timeout(seconds):
            while (await client.get("/readyz")).status_code != status:  # noqa: ASYNC110 -- another process
                await asyncio.sleep(0.01)

    async def until(self, condition: Callable[[], bool], seconds: float = 20) -> None:
        """Until something outside of this process holds."""
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 -- the condition is another process's
                await asyncio.sleep(0.01)


class Rig(Witnesses):
    """`async with Rig(folder, provider) as rig:`, then `await rig.serve()` with what the test needs."""

    def __init__(
        self, folder: Path, provider: ProviderProcess, *, make_server: Callable[..., ServerProcess] = ServerProcess
    ) -> None:
        super().__init__(folder, provider)
        self._make_server = make_server
        self._server: ServerProcess | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._server is not None:
            await self._server.kill()

    @property
    def server(self) -> ServerProcess:
        """The server, once `serve` has been called."""
        assert self._server is not None, "call serve() first"
        return self._server

    async def serve(
        self,
        agent: str = "claude.py:graph",
        *,
        env: Mapping[str, str] | None = None,
        crash_at: str | None = None,
        wait: bool = True,
    ) -> ServerProcess:
        """Start the server with an agent of `tests/support/agents`."""
        target, environment = self.agent(agent, crash_at)
        self._server = self._make_server(self.folder / "server", target=target, env={**environment, **(env or {})})
        await self._server.start(wait=wait)
        return self._server

    async def only_run(self, seconds: float = 20) -> dict[str, Any]:
        """The row of the one run there is."""
        await self.until(lambda: len(self._run_rows()) == 1, seconds)
        return self._run_rows()[0]

    def _run_rows(self) -> list[dict[str, Any]]:
        return self.server.rows("SELECT * FROM runs") if self.server.database.exists() else []
