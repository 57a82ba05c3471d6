"""A run whose agent was taken out of the server while it waited, and what its thread shows afterwards."""

from dataclasses import replace
from pathlib import Path

from roadworthy.domain.ids import AgentName
from roadworthy.domain.run import RunError, RunStatus
from tests.integration.engine.stage import caller, open_stage


async def test_a_run_of_an_agent_that_is_gone_is_the_agents_failure_and_its_thread_can_be_seen(
    database_file: Path,
) -> None:
    async with open_stage(database_file) as stage:
        ended = await stage.end(await stage.submit(replace(stage.run(), agent=AgentName("gone"))))
        assert ended.status is RunStatus.ERROR
        assert ended.result.error == RunError(code="agent_failed", message="the agent gone is no longer served")
        view = await stage.threads.get(caller(), "thread")
        assert (view.messages, view.values, list(view.runs)) == ((), None, [ended])
        await stage.threads.erase(caller(), "thread")
