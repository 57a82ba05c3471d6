"""What the machine can do: full disk, locked database, signals, a broken start (catalogue 16, 17, 19 to 21)."""

import asyncio
import os
import signal
import sqlite3
import subprocess
from collections.abc import Generator, Mapping
from pathlib import Path

import httpx
import pytest

from tests.support.invariants import check_invariants
from tests.support.provider.script import Hold, Rule, Turn
from tests.support.rig import Rig
from tests.support.transcript import Transcript, follow


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path]:
    """A file system of 12 MB of its own."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(place)], check=False)
    if mounted.returncode:
        pytest.skip("NOT CHECKED: a full disk, because this user may not mount a file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


async def test_a_full_disk_refuses_new_runs_keeps_reads_and_recovers_unaided(rig: Rig, small_disk: Path) -> None:
    server = await rig.serve(env={"ROADWORTHY_DATA_DIR": str(small_disk / "data")})
    hold = Turn(text="one two three", hold=Hold(at=2))
    rig.provider.script(rules=(Rule(when="held", turns=(hold,)),))
    async with server.client() as client:
        before = (await client.post("/agent/invoke", json={"message": "say: before", "thread_id": "b"})).json()
        async with asyncio.TaskGroup() as group:
            running = group.create_task(client.post("/agent/invoke", json={"message": "held", "thread_id": "h"}))
            await rig.provider.wait_for(lambda calls: any(call.held for call in calls))
            filler = _fill(small_disk)
            refused = await _until_refused(client)
            assert refused.status_code in {503, 507}, refused.text
            assert refused.json()["code"] in {"storage", "storage_full"}
            assert "retry-after" in refused.headers
            read = await client.get(f"/agent/runs/{before['run_id']}")
            assert read.json()["response"] == "before"
            rig.provider.release()
            await asyncio.sleep(0.5)
            filler.unlink()
        ended = running.result()
        assert ended.status_code in {200, 503, 507}, ended.text
        if ended.status_code != 200:
            assert ended.json()["run"]["error"]["code"] in {"storage", "storage_full"}
        answer = await _until_accepted(client)
    assert answer.json()["response"] == "after"
    check_invariants(server, rig.provider.ledger)


async def test_a_locked_database_is_waited_for_and_then_refused_without_a_500(rig: Rig) -> None:
    server = await rig.serve()
    async with server.client() as client:
        await client.post("/agent/invoke", json={"message": "say: warm"})
        locker = sqlite3.connect(server.database, isolation_level=None)
        locker.execute("BEGIN IMMEDIATE")
        async with asyncio.TaskGroup() as group:
            short = group.create_task(client.post("/agent/invoke", json={"message": "say: short"}))
            await asyncio.sleep(1)
            locker.execute("COMMIT")
        assert short.result().json()["response"] == "short"
        locker.execute("BEGIN IMMEDIATE")
        refused = await client.post("/agent/invoke", json={"message": "say: long"})
        locker.execute("COMMIT")
        locker.close()
        assert (refused.status_code, refused.json()["code"]) == (503, "storage"), refused.text
        assert "retry-after" in refused.headers
        after = await client.post("/agent/invoke", json={"message": "say: after"})
    assert after.json()["response"] == "after"
    check_invariants(server, rig.provider.ledger)


async def test_sigterm_hands_runs_over_and_the_next_start_finishes_them(rig: Rig) -> None:
    server = await rig.serve(env={"ROADWORTHY_DRAIN_TIMEOUT": "1"})
    rig.provider.script(rules=(Rule(when="held", turns=(Turn(text="a b c d", hold=Hold(at=2)), Turn(text="again"))),))
    transcript = Transcript()
    async with server.client() as client:
        body = {"message": "held", "thread_id": "t"}
        async with client.stream("POST", "/agent/stream", json=body) as response:
            frames = transcript.read(response)
            async for frame in frames:
                if frame["type"] == "content":
                    break
            server.signal(signal.SIGTERM)
            await rig.not_ready(client)
            refused = await client.post("/agent/invoke", json={"message": "say: no"})
            async for _ in frames:
                pass
        assert (refused.status_code, refused.json()["code"]) == (503, "draining")
        assert "retry-after" in refused.headers
        assert transcript.frames[-1]["type"] == "handover"
        assert await server.exited(30) == 0
        assert [row["status"] for row in server.rows("SELECT status FROM runs")] == ["pending"]
        transcript.frames.pop()
        await server.start()
        await follow(client, transcript)
        run = (await client.get(f"/agent/runs/{transcript.run_id}")).json()
    assert (run["status"], run["response"]) == ("success", "again")
    assert transcript.text() == "again"
    assert len(rig.provider.ledger) == 2
    check_invariants(server, rig.provider.ledger, transcripts=[transcript])


async def test_sigterm_between_two_steps_costs_nothing(rig: Rig) -> None:
    server = await rig.serve()
    body = {"message": 'tool: slow_note {"text": "a"}\nsay: done', "thread_id": "t", "on_disconnect": "continue"}
    async with server.client() as client:
        async with asyncio.TaskGroup() as group:
            request = group.create_task(client.post("/agent/invoke", json=body))
            await rig.effect("slow_note", phase="begin")
            server.signal(signal.SIGTERM)
            await rig.not_ready(client)
            rig.open_gate("a")
            assert await server.exited(30) == 0
        answer = request.result()
        assert (answer.status_code, answer.json()["code"]) == (503, "draining")
        await server.start()
        run = await rig.final(client, (await rig.only_run())["run_id"])
    assert (run["status"], run["response"]) == ("success", "done")
    assert rig.effects.count("slow_note") == 1
    assert len(rig.provider.ledger) == 2
    check_invariants(server, rig.provider.ledger)


async def test_a_second_sigterm_ends_at_once_and_the_next_start_finishes(rig: Rig) -> None:
    server = await rig.serve()
    body = {"message": 'tool: slow_note {"text": "a"}\nsay: done', "thread_id": "t", "on_disconnect": "continue"}
    async with server.client() as client:
        async with asyncio.TaskGroup() as group:
            lost = group.create_task(_lost(client, body))
            await rig.effect("slow_note", phase="begin")
            server.signal(signal.SIGTERM)
            await rig.not_ready(client)
            server.signal(signal.SIGTERM)
            assert await server.exited(5) != 0
        assert lost.result()
        rig.open_gate("a")
        await server.start()
        run = await rig.final(client, (await rig.only_run())["run_id"])
    assert (run["status"], run["response"]) == ("success", "done")
    check_invariants(server, rig.provider.ledger)


async def test_a_provider_that_is_down_at_boot_keeps_nobody_from_starting(rig: Rig) -> None:
    server = await rig.serve(env={"PROVIDER_URL": "http://127.0.0.1:9"})
    async with server.client() as client:
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/readyz")).status_code == 200
        answer = await client.post("/agent/invoke", json={"message": "hi"})
        assert (answer.status_code, answer.json()["code"]) == (502, "provider_unavailable")
    check_invariants(server, rig.provider.ledger)


async def test_a_wedged_event_loop_ends_its_process_and_the_run_is_recovered(rig: Rig) -> None:
    server = await rig.serve("wedging.py:graph", env={"ROADWORTHY_WATCHDOG_TIMEOUT": "2"})
    async with server.client() as client:
        await _lost(client, {"input": {"done": False}, "thread_id": "t", "on_disconnect": "continue"})
        assert await server.exited(30) == 70
        assert "wedged" in server.logs
        await server.start()
        run = await rig.final(client, (await rig.only_run())["run_id"])
    assert (run["status"], run["output"]["done"]) == ("success", True)


async def test_a_second_server_on_the_same_folder_is_refused_and_the_first_goes_on(rig: Rig) -> None:
    server = await rig.serve()
    code, _, err = await server.run_cli("serve", "--port", "0")
    assert code == 2
    assert "another server uses the data folder" in err
    async with server.client() as client:
        assert (await client.get("/readyz")).status_code == 200


async def _lost(client: httpx.AsyncClient, body: Mapping[str, object]) -> bool:
    try:
        await client.post("/agent/invoke", json=body)
    except httpx.TransportError:
        return True
    return False


async def _until_refused(client: httpx.AsyncClient) -> httpx.Response:
    for number in range(200):
        answer = await client.post("/agent/invoke", json={"message": "say: more", "thread_id": f"f{number}"})
        if answer.status_code != 200:
            return answer
    raise AssertionError("the disk was never full")


async def _until_accepted(client: httpx.AsyncClient) -> httpx.Response:
    async with asyncio.timeout(30):
        while True:
            answer = await client.post("/agent/invoke", json={"message": "say: after"})
            if answer.status_code == 200:
                return answer
            await asyncio.sleep(0.2)


def _fill(place: Path) -> Path:
    filler = place / "filler"
    with filler.open("wb") as file:
        while True:
            try:
                os.write(file.fileno(), b"\0" * 65536)
            except OSError:
                return filler
