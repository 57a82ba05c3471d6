"""What a run has used is freed when it ends: no circle keeps it until the garbage collector comes by.

Of runs that end well; an exception holds the frames that it came through.
"""

import gc
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from langchain.agents import create_agent

from roadworthy.domain.ids import AgentName
from roadworthy.engine.execution import Attempt
from roadworthy.runtimes.langgraph.registry import LoadedAgent
from roadworthy.runtimes.langgraph.run import GraphExecution
from tests.integration.engine.stage import until
from tests.support.scripted_model import ScriptedChatModel
from tests.support.web.real import real_app

RUNS = 5


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def left() -> int:
    return sum(isinstance(one, Attempt | GraphExecution) for one in gc.get_objects())


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("agent", ["spoken", "echo"])
async def test_a_run_s_end_frees_what_it_has_used(tmp_path: Path, agent: str) -> None:
    # Without tools: asyncio's own loop keeps a cancelled timer, with its context, until its time comes.
    spoken = create_agent(ScriptedChatModel(), tools=[])
    async with real_app(tmp_path, more=[LoadedAgent(name=AgentName("spoken"), graph=spoken)]) as real:
        transport = httpx.ASGITransport(app=real.app)
        headers = {"x-api-key": real.alice}
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers) as client:
            for _ in range(RUNS):
                answer = await client.post("/agent/stream", json={"message": "hi", "agent": agent})
                assert '"type":"done"' in answer.text
            await until(lambda: not left())
