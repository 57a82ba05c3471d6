"""`roadworthy users`: an export beside a running server, an erasure without one."""

import json
import stat
from pathlib import Path
from typing import Any

from tests.e2e.command import AGENTS, run, serving
from tests.support import rig


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


async def test_a_user_is_exported_beside_a_server_and_erased_without_one(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        _, key, _ = await run(tmp_path, "keys", "create", "--user", "ann")
        for one, thread in ((key.strip(), "mine"), (server.first_key, "theirs")):
            async with server.client(one) as client:
                body = {"message": "How do I cancel a run?", "thread_id": thread}
                assert (await client.post("/agent/invoke", json=body)).status_code == 200
        code, out, _ = await run(tmp_path, "users", "export", "ann")
        assert code == 0
        first, *_, last = lines(out)
        assert (first["user"], first["states"]) == ("ann", False)
        assert {name: last["counts"][name] for name in ("keys", "threads", "runs", "items")} == {
            "keys": 1,
            "threads": 1,
            "runs": 1,
            "items": 0,
        }
        assert "theirs" not in out
        assert key.strip() not in out

        code, out, err = await run(tmp_path, "users", "erase", "ann", "--yes")
        assert (code, out) == (2, "")
        assert "/admin/users/ann" in err
        await server.stop()

    code, out, _ = await run(tmp_path, "users", "export", "ann", "--out", "ann.jsonl")
    assert (code, out) == (0, "")
    file = tmp_path / "ann.jsonl"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert lines(file.read_text())[-1]["kind"] == "end"
    code, _, err = await run(tmp_path, "users", "export", "ann", "--out", "ann.jsonl")
    assert (code, "cannot be made" in err) == (2, True)

    code, out, err = await run(tmp_path, "users", "erase", "ann")  # nobody is there to say yes
    assert (code, out.strip()) == (1, "")
    assert "for ever?" in err
    code, out, _ = await run(tmp_path, "users", "erase", "ann", "--yes")
    assert (code, json.loads(out)) == (0, {"threads": 1, "runs": 1, "items": 0, "keys": 1})
    code, out, _ = await run(tmp_path, "users", "erase", "ann", "--yes")
    assert (code, json.loads(out)) == (0, {"threads": 0, "runs": 0, "items": 0, "keys": 0})
    _, out, _ = await run(tmp_path, "audit", "--json")
    assert {"user.export", "user.erase", "user.erased"} <= {entry["action"] for entry in json.loads(out)}

    async with serving(tmp_path) as server, server.client(key.strip()) as client:
        assert (await client.get("/agent/threads")).status_code == 401
        code, out, _ = await run(tmp_path, "users", "export", "admin")
        assert [part["thread_id"] for part in lines(out) if part["kind"] == "thread"] == ["theirs"]


async def test_a_run_that_a_crash_has_left_behind_is_ended_and_erased(tmp_path: Path) -> None:
    async with serving(tmp_path, f"{AGENTS}:waiting") as server:
        async with server.client(server.first_key) as client:
            body = {"message": "hi", "thread_id": "t", "on_disconnect": "continue"}
            async with client.stream("POST", "/agent/stream", json=body) as response:
                async for _ in response.aiter_lines():
                    break
        server.process.kill()
        await server.process.wait()
    code, out, err = await run(tmp_path, "users", "erase", "admin", "--yes")
    assert code == 0, err
    assert json.loads(out) == {"threads": 1, "runs": 1, "items": 0, "keys": 1}


async def test_what_agents_keep_of_a_user_is_exported_and_erased(tmp_path: Path) -> None:
    async with serving(tmp_path, f"{rig.AGENTS}/remembering.py:graph") as server:
        _, key, _ = await run(tmp_path, "keys", "create", "--user", "ann")
        for one, text in ((key.strip(), "tea"), (server.first_key, "coffee")):
            async with server.client(one) as client:
                assert (await client.post("/agent/invoke", json={"input": {"remember": text}})).status_code == 200
        _, out, _ = await run(tmp_path, "users", "export", "ann")
        assert [part["value"] for part in lines(out) if part["kind"] == "item"] == [{"text": "tea"}]
        assert "coffee" not in out
        await server.stop()
    code, out, err = await run(tmp_path, "users", "erase", "ann", "--yes")
    assert (code, json.loads(out)["items"]) == (0, 1), err
    for user, items in (("ann", 0), ("admin", 1)):
        _, out, _ = await run(tmp_path, "users", "export", user)
        assert lines(out)[-1]["counts"]["items"] == items
