"""`roadworthy doctor`, before the first start, beside a server, and with something wrong."""

import json
from pathlib import Path
from typing import Any

from tests.e2e.command import AGENTS, run, serving


async def _doctor(folder: Path, *args: str, env: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
    code, out, err = await run(folder, "doctor", "--json", *args, env=env)
    assert "Traceback" not in err
    return code, json.loads(out)


async def test_before_the_first_start_all_is_well_and_nothing_is_made(tmp_path: Path) -> None:
    code, report = await _doctor(tmp_path)
    assert (code, report["verdict"]) == (0, "ok")
    assert {one["check"] for one in report["checks"]} == {
        "settings",
        "access",
        "data folder",
        "database",
        "clock",
        "agents",
        "state types",
    }
    assert not (tmp_path / ".roadworthy").exists()


async def test_it_works_beside_a_server_and_shows_no_secret(tmp_path: Path) -> None:
    pepper = "a-secret-pepper-of-the-test"
    async with serving(tmp_path, f"{AGENTS}:waiting", env={"ROADWORTHY_KEY_PEPPER": pepper}):
        code, out, err = await run(
            tmp_path, "doctor", f"{AGENTS}:waiting", env={"ROADWORTHY_KEY_PEPPER": pepper, "ROADWORTHY_PORT": "9000"}
        )
    assert code == 0, err
    assert "verdict: ok" in out
    assert "(set)" in out
    assert pepper not in out + err


async def test_everything_wrong_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file, not a folder")
    code, report = await _doctor(
        tmp_path, "nothing.py:graph", env={"ROADWORTHY_DATA_DIR": "data", "ROADWORTHY_QUEU_SIZE": "1"}
    )
    assert (code, report["verdict"]) == (1, "fail")
    verdicts = {one["check"]: (one["verdict"], one["detail"]) for one in report["checks"]}
    assert verdicts["data folder"][0] == "fail"
    assert verdicts["agents"][0] == "fail"
    assert "nothing.py" in verdicts["agents"][1]
    assert "ROADWORTHY_QUEUE_SIZE" in verdicts["settings"][1]
    assert all(one["advice"] for one in report["checks"] if one["verdict"] != "ok")


async def test_wrong_settings_are_a_finding_too(tmp_path: Path) -> None:
    code, report = await _doctor(tmp_path, env={"REQUEST_TIMEOUT": "soon"})
    assert (code, report["settings"]) == (1, None)
    assert "REQUEST_TIMEOUT" in report["checks"][0]["detail"]


async def test_classes_that_a_checkpoint_would_lose_are_named(tmp_path: Path) -> None:
    (tmp_path / "lossy.py").write_text(
        "from typing import TypedDict\n"
        "from langgraph.graph import START, StateGraph\n"
        "class Ledger:\n    pass\n"
        "class State(TypedDict):\n    ledger: Ledger\n"
        "builder = StateGraph(State)\n"
        "builder.add_node('n', lambda state: {})\n"
        "builder.add_edge(START, 'n')\n"
        "graph = builder.compile()\n"
    )
    code, report = await _doctor(tmp_path, "lossy.py:graph")
    (finding,) = [one for one in report["checks"] if one["check"] == "state types"]
    assert (code, finding["verdict"]) == (0, "warn")
    assert "lossy:Ledger" in finding["detail"]


async def test_a_retired_model_is_named(tmp_path: Path) -> None:
    env = {
        "ROADWORTHY_MODEL": "anthropic:claude-3-opus-20240229",
        "ANTHROPIC_API_KEY": "sk-ant-not-a-real-key",
        "ROADWORTHY_MODEL_BASE_URL": "http://127.0.0.1:9",
    }
    _, report = await _doctor(tmp_path, env=env)
    (finding,) = [one for one in report["checks"] if one["check"] == "model"]
    assert finding["verdict"] == "warn"
    assert "retired" in finding["detail"]
    assert "sk-ant-not-a-real-key" not in json.dumps(report)
