"""`roadworthy runs` beside a running server."""

import asyncio
import json
from pathlib import Path

from tests.e2e.command import AGENTS, run, serving

SECRET = "what nobody else should read"


async def test_an_operator_sees_stops_and_explains_runs(tmp_path: Path) -> None:
    async with serving(tmp_path, f"{AGENTS}:waiting") as server, server.client(server.first_key) as client:
        done = (await client.post("/agent/invoke", json={"message": "hello"})).json()
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(
                client.post("/agent/invoke", json={"message": SECRET, "thread_id": "t", "on_disconnect": "continue"})
            )
            run_id = await _running(tmp_path)
            code, _, err = await run(tmp_path, "runs", "cancel", run_id)
            assert code == 0
            assert "will be cancelled" in err
            async with asyncio.timeout(30):
                answer = await waiting
        assert (answer.status_code, answer.json()["run"]["status"]) == (409, "cancelled")

        _, out, _ = await run(tmp_path, "runs", "list", "--json")
        listed = json.loads(out)
        assert [(one["run_id"], one["status"]) for one in listed] == [
            (run_id, "cancelled"),
            (done["run_id"], "success"),
        ]
        assert [(one["cost_usd"], one["unpriced_calls"]) for one in listed] == [(0, 0), (0, 0)]
        _, out, _ = await run(tmp_path, "runs", "list", "--status", "cancelled", "--tenant", "default")
        assert run_id in out
        assert done["run_id"] not in out
        assert "COST" in out
        assert "$0.00" in out
        _, out, _ = await run(tmp_path, "runs", "show", run_id)
        assert "cancelled" in out
        assert SECRET not in out
        code, _, err = await run(tmp_path, "runs", "cancel", run_id)
        assert (code, "has already ended: cancelled" in err) == (0, True)
    assert SECRET not in server.log


async def test_a_run_that_does_not_exist_is_said_so(tmp_path: Path) -> None:
    for run_id in ("0" * 32, "nonsense"):
        code, out, err = await run(tmp_path, "runs", "show", run_id)
        assert (code, out) == (1, "")
        assert f"there is no run {run_id}" in err


async def _running(folder: Path) -> str:
    async with asyncio.timeout(30):
        while True:
            _, out, _ = await run(folder, "runs", "list", "--status", "running", "--json")
            if found := json.loads(out):
                return found[0]["run_id"]
