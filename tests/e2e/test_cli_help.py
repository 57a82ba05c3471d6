"""`--help` and `version` answer without loading the stack."""

import subprocess
import sys
from pathlib import Path

from roadworthy import __version__
from tests.e2e.command import run

HEAVY = ("langgraph", "langchain_core", "fastapi", "sqlalchemy", "pydantic", "uvicorn")


def test_the_command_line_is_read_without_the_stack() -> None:
    probe = f"import roadworthy.cli.main, sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


async def test_help_names_every_command(tmp_path: Path) -> None:
    code, out, _ = await run(tmp_path, "--help")
    assert code == 0
    for command in ("serve", "keys", "runs", "budgets", "rates", "usage", "audit", "doctor", "version"):
        assert command in out


async def test_version_is_the_packages(tmp_path: Path) -> None:
    code, out, _ = await run(tmp_path, "version")
    assert code == 0
    assert out.startswith(f"roadworthy {__version__}\n")


async def test_an_unknown_command_is_wrong_usage(tmp_path: Path) -> None:
    code, out, err = await run(tmp_path, "fly")
    assert (code, out) == (2, "")
    assert "fly" in err
