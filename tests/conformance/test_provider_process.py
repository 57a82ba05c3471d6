"""The fake provider as a process of its own: driven over HTTP, and alive when its clients are killed."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.provider.client import claude
from tests.support.provider.fake import FakeProvider
from tests.support.provider.ledger import read_ledger
from tests.support.provider.process import ProviderProcess
from tests.support.provider.script import Fault, Hold, Rule, ToolUse, Turn

_ROOT = Path(__file__).parents[2]
_CLIENT = """
import sys, httpx
headers = {"x-api-key": "test", "anthropic-version": "2023-06-01"}
body = {"model": "claude-sonnet-5", "max_tokens": 100, "stream": True,
        "messages": [{"role": "user", "content": "hi"}]}
with httpx.stream("POST", sys.argv[1] + "/v1/messages", json=body, headers=headers, timeout=60) as response:
    for _ in response.iter_lines():
        pass
"""


async def test_it_survives_a_killed_client_and_its_ledger_file_knows_the_call(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    async with ProviderProcess(ledger_path=path) as provider:
        provider.script(Turn(text="one two three", fault=Fault(kind="silence", at=2)))
        client = await asyncio.create_subprocess_exec(sys.executable, "-c", _CLIENT, provider.url)
        try:
            await provider.wait_for(lambda calls: any(call.output_tokens == 2 for call in calls), seconds=30)
            assert [entry.outcome for entry in read_ledger(path)] == ["open"]
        finally:
            client.kill()
            await client.wait()

        [gone] = await provider.wait_for_outcome("client_gone")
        assert gone.output_tokens == 2
        assert (await claude(provider.url).ainvoke("say: still here")).text == "still here"
        assert provider.ledger == read_ledger(path)

    assert [entry.outcome for entry in read_ledger(path)] == ["client_gone", "complete"]


async def test_scripts_holds_and_resets_cross_the_control_api() -> None:
    async with ProviderProcess() as provider:
        rule = Rule(when="tool", turns=(Turn(tools=(ToolUse(name="weather", args={"days": [1, None]}),)),))
        provider.script(Turn(text="one two", hold=Hold(at=1, gate="door")), rules=(rule,))
        model = claude(provider.url, streaming=True)

        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            held = group.create_task(model.ainvoke("hi"))
            await provider.wait_for(lambda calls: any(call.held for call in calls))
            assert (await claude(provider.url).ainvoke("tool")).tool_calls[0]["args"] == {"days": [1, None]}
            provider.release("door")
        assert held.result().text == "one two"
        assert provider.clients > 0

        provider.reset()
        assert provider.ledger == ()


def test_it_stops_when_its_parent_lets_go() -> None:
    command = [sys.executable, "-m", "tests.support.provider"]
    with subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("http://127.0.0.1:")
            process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0


async def test_a_provider_can_come_back_on_its_port() -> None:
    async with FakeProvider() as first:
        await claude(first.url).ainvoke("hi")
    host, _, port = first.url.removeprefix("http://").partition(":")
    async with FakeProvider(host=host, port=int(port)) as second:
        assert second.url == first.url
        with pytest.raises(OSError, match="Address already in use"):
            await FakeProvider(host=host, port=int(port)).__aenter__()
