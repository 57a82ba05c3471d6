"""The wheel, built from the tree and installed into an empty environment with the locked dependencies only."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.e2e.command import run, serving

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    _do(BIN / "python", "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_docs_that_the_demo_quotes_and_the_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        assert f"roadworthy/_docs/{page.relative_to(ROOT).as_posix()}" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any("storage/migrations/versions/" in name for name in names)
    assert not any(name.startswith(("tests", "benchmarks", "docs")) for name in names)


async def test_the_wheel_serves_from_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    _do(BIN / "uv", "venv", "--quiet", "--python", sys.executable, venv)
    install = (BIN / "uv", "pip", "install", "--quiet", "--python", venv / "bin" / "python")
    _do(*install, "--require-hashes", "-r", ROOT / "requirements" / "base.txt")
    _do(*install, "--no-deps", wheel)
    home = tmp_path / "home"
    home.mkdir()
    command = venv / "bin" / "roadworthy"
    async with serving(home, command=command) as server, server.client(server.first_key) as client:
        answer = (await client.post("/agent/invoke", json={"message": "How do I cancel a run?"})).json()
    assert answer["status"] == "success"
    assert "docs/operations.md#cancel-a-run" in answer["response"]
    code, out, err = await run(home, "doctor", "--json", command=command)
    assert (code, '"verdict": "ok"' in out) == (0, True), err


def _do(*command: str | Path) -> None:
    environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
