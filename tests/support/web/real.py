"""The real application on a data folder of its own, through ``bootstrap``, with graphs that a test can hold still."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt

from roadworthy.app import build_app, http_limits, services_of
from roadworthy.bootstrap import Container, Project, bootstrap
from roadworthy.domain.audit import Actor
from roadworthy.domain.ids import AgentName, TenantId, UserId
from roadworthy.domain.principal import Owner
from roadworthy.runtimes.langgraph.registry import LoadedAgent
from roadworthy.settings import Settings
from roadworthy.telemetry.metrics import Metrics
from roadworthy.telemetry.run_log import RunLog
from roadworthy.telemetry.several import Several


@dataclass
class Gate:
    """Holds runs of the agent ``held`` until the test opens it."""

    entered: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Real:
    """A wired application. ``alice`` and ``bob`` are keys of two users of one tenant."""

    app: FastAPI
    container: Container
    gate: Gate
    metrics: Metrics
    alice: str
    bob: str


@asynccontextmanager
async def real_app(folder: Path, *, more: Sequence[LoadedAgent] = (), **settings: Any) -> AsyncGenerator[Real]:
    """Agents: ``echo`` repeats the message; ``held`` waits at the gate; ``asking`` interrupts; ``failing`` raises. Then
    ``more`` of the test's own.
    """
    chosen = Settings(data_dir=folder, **settings)
    gate = Gate()
    metrics = Metrics("1.2.3")
    async with bootstrap(chosen, Project(agents=[*_agents(gate), *more]), Several(RunLog(), metrics)) as container:
        metrics.watch(container.worker.load)
        app = build_app(
            services_of(container),
            http_limits(chosen),
            auth=chosen.auth,
            version="1.2.3",
            api_version="v1",
            telemetry=metrics,
            exposition=metrics,
        )
        alice, bob = [await _key(container, name) for name in ("alice", "bob")]
        try:
            yield Real(app=app, container=container, gate=gate, metrics=metrics, alice=alice, bob=bob)
        finally:
            gate.opened.set()


async def _key(container: Container, user: str) -> str:
    owner = Owner(tenant=TenantId("default"), user=UserId(user))
    return (await container.keys.create(owner, actor=Actor(name="test"))).text


def _agents(gate: Gate) -> list[LoadedAgent]:
    async def echo(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"you said: {state['messages'][-1].text}")]}

    async def held(_state: MessagesState) -> dict[str, Any]:
        gate.entered.set()
        try:
            await gate.opened.wait()
        except asyncio.CancelledError:
            gate.cancelled.set()
            raise
        return {"messages": [AIMessage("let through")]}

    async def asking(_state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"answered: {interrupt('sure?')}")]}

    async def failing(_state: MessagesState) -> dict[str, Any]:
        raise ValueError("secret of the agent")

    nodes = {"echo": echo, "held": held, "asking": asking, "failing": failing}
    return [LoadedAgent(name=AgentName(name), graph=_graph(node)) for name, node in nodes.items()]


def _graph(node: Any) -> Any:
    return StateGraph(MessagesState).add_node("node", node).add_edge(START, "node").compile()
