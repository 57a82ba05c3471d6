"""`roadworthy serve` as an operator meets it: the first start, refusals, signals."""

import asyncio
import shutil
import signal
import socket
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.e2e.command import AGENTS, environment, run, serving, until_draining


async def test_the_line_printed_at_the_first_start_gets_an_answer_from_the_docs(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("NOT CHECKED: the printed line needs curl")
    async with serving(tmp_path) as server:
        process = await asyncio.create_subprocess_shell(
            server.curl, stdout=asyncio.subprocess.PIPE, env=environment(tmp_path)
        )
        out, _ = await process.communicate()
        (record,) = server.records("run_finished")
    answer = out.decode()
    assert '"status":"success"' in answer.replace(" ", "")
    assert "docs/" in answer
    assert (record["status"], record["user"], record["tool_calls"]) == ("success", "admin", 1)


async def test_the_first_key_stands_alone_and_in_no_log(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        key = server.first_key
        assert server.lines.count(key) == 1
        async with server.client(key) as client:
            assert (await client.get("/agent/threads")).status_code == 200
        async with server.client(key[:-1] + ("a" if key[-1] != "a" else "b")) as client:
            assert (await client.get("/agent/threads")).status_code == 401
    assert key not in server.log


async def test_a_later_start_shows_no_key(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        assert await server.stop() == 0
    async with serving(tmp_path) as server:
        assert not any(line.startswith("rw_live_") for line in server.lines)
        assert "$KEY" in server.curl


async def test_a_given_admin_key_works_and_is_not_shown(tmp_path: Path) -> None:
    key = "rw_live_given-for-this-test"
    async with serving(tmp_path, env={"ROADWORTHY_ADMIN_KEY": key}) as server:
        assert key not in "\n".join(server.lines)
        async with server.client(key) as client:
            assert (await client.get("/agent/threads")).status_code == 200


async def test_without_auth_no_key_is_needed(tmp_path: Path) -> None:
    async with serving(tmp_path, "--no-auth") as server, httpx.AsyncClient(base_url=server.url) as client:
        assert (await client.get("/agent/threads")).status_code == 200


@pytest.mark.parametrize(
    ("args", "env", "complaint"),
    [
        (("--no-auth", "--host", "0.0.0.0"), {}, "only on a loopback address, not on 0.0.0.0"),
        ((), {"MAX_CONCURRENT_REQUESTS": "many"}, "MAX_CONCURRENT_REQUESTS must be"),
        (("missing.py:graph",), {}, "missing.py:graph"),
        (("broken.py:graph",), {}, "ZeroDivisionError"),
        (("broken.py",), {}, "is no target"),
        (("--host", "203.0.113.7"), {}, "this machine has no address 203.0.113.7"),
        ((), {"ROADWORTHY_DATA_DIR": "broken.py"}, "data folder"),
        ((), {"ROADWORTHY_ADMIN_KEY": "secret-but-no-key"}, "admin key must be"),
    ],
)
async def test_what_cannot_be_served_is_said_in_one_line(
    tmp_path: Path, args: tuple[str, ...], env: dict[str, str], complaint: str
) -> None:
    (tmp_path / "broken.py").write_text("graph = 1 / 0\n")
    code, out, err = await run(tmp_path, "serve", "--port", "0", *args, env=env)
    assert (code, out) == (2, "")
    (line,) = [line for line in err.splitlines() if line.startswith("roadworthy: ")]
    assert complaint in line
    assert "Traceback" not in err
    assert "secret-but-no-key" not in err


async def test_a_port_in_use_is_said_before_anything_slow_is_loaded(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        code, _, err = await run(tmp_path, "serve", "--port", str(port))
    assert code == 2
    assert f"port {port} on 127.0.0.1 is in use" in err
    assert not (tmp_path / ".roadworthy").exists()


async def test_a_data_folder_belongs_to_one_server(tmp_path: Path) -> None:
    async with serving(tmp_path):
        code, _, err = await run(tmp_path, "serve", "--port", "0")
    assert code == 2
    assert "another server uses the data folder" in err


async def test_a_signal_drains_and_the_next_start_goes_on(tmp_path: Path) -> None:
    env = {"ROADWORTHY_DRAIN_TIMEOUT": "1"}
    target = f"{AGENTS}:waiting"
    async with serving(tmp_path, target, env=env) as server, server.client(server.first_key) as client:
        async with client.stream("POST", "/agent/stream", json={"message": "wait", "thread_id": "t"}) as stream:
            events = stream.aiter_lines()
            await anext(events)
            server.process.send_signal(signal.SIGTERM)
            ready = await until_draining(client)
            assert ready.json()["problems"][0]["name"] == "draining"
            refused = await client.post("/agent/invoke", json={"message": "hello"})
            assert (refused.status_code, refused.json()["code"]) == (503, "draining")
            rest = [line async for line in events]
        assert not any('"type":"done"' in line for line in rest)
        async with asyncio.timeout(30):
            assert await server.process.wait() == 0
        key = server.first_key
    async with serving(tmp_path, target, env=env) as server, server.client(key) as client:
        (run_,) = (await client.get("/agent/threads/t")).json()["runs"]
        assert run_["status"] in ("pending", "running")
        cancelled = await client.post(f"/agent/runs/{run_['run_id']}/cancel")
        assert cancelled.status_code == 202


async def test_a_second_signal_ends_the_process_at_once(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, f"{AGENTS}:waiting") as server,
        server.client(server.first_key) as client,
        client.stream("POST", "/agent/stream", json={"message": "wait"}) as stream,
    ):
        await anext(stream.aiter_lines())
        server.process.send_signal(signal.SIGTERM)
        await until_draining(client)
        server.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await server.process.wait() == 128 + signal.SIGTERM
        assert server.records("stopped_at_once")


async def test_a_server_whose_every_slot_hangs_ends_itself_for_its_supervisor(tmp_path: Path) -> None:
    env = {"MAX_CONCURRENT_REQUESTS": "1", "REQUEST_TIMEOUT": "0.5", "ROADWORTHY_STUCK_TIMEOUT": "0.5"}
    async with serving(tmp_path, f"{AGENTS}:hanging", env=env) as server, server.client(server.first_key) as client:
        answer = await client.post("/agent/invoke", json={"message": "hang"})
        assert answer.json()["run"]["status"] == "timeout"
        async with asyncio.timeout(60):
            assert await server.process.wait() == 70
        assert "roadworthy: every slot has been held by threads of ended runs for 0.5 s; ending" in server.log


async def test_an_agent_that_ends_the_process_does_not_choose_its_exit_code(tmp_path: Path) -> None:
    async with serving(tmp_path, f"{AGENTS}:leaving") as server, server.client(server.first_key) as client:
        with suppress(httpx.TransportError):  # the connection may end before or after an answer
            assert not (await client.post("/agent/invoke", json={"message": "leave"})).is_success
        async with asyncio.timeout(60):
            assert await server.process.wait() == 70
        assert "roadworthy: code of an agent tried to end it (SystemExit: 0); ending the process" in server.log


async def test_the_project_file_of_the_folder_is_served_with_its_variables(tmp_path: Path) -> None:
    (tmp_path / "langgraph.json").write_text(
        '{"graphs": {"first": "./mine.py:graph", "second": "./mine.py:graph"}, "env": {"GREETING": "good day"}}'
    )
    (tmp_path / "mine.py").write_text(
        "import os\n"
        "from neighbour import State\n"
        "from langchain_core.messages import AIMessage\n"
        "from langgraph.graph import START, StateGraph\n"
        "def speak(state):\n"
        "    return {'messages': [AIMessage(os.environ['GREETING'])]}\n"
        "graph = StateGraph(State)\n"
        "graph.add_node('speak', speak)\n"
        "graph.add_edge(START, 'speak')\n"
    )
    (tmp_path / "neighbour.py").write_text("from langgraph.graph import MessagesState as State\n")
    async with serving(tmp_path) as server, server.client(server.first_key) as client:
        for agent in ({}, {"agent": "second"}):
            answer = (await client.post("/agent/invoke", json={"message": "hi", **agent})).json()
            assert (answer["response"], answer["agent"]) == ("good day", agent.get("agent", "first"))
