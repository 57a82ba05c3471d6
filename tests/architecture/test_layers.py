"""The import contracts hold, and each of them fails when it is broken."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.architecture.repository import PACKAGE, ROOT

# One violation of each contract: file → line to add.
VIOLATIONS = {
    "domain/page.py": "import fastapi",
    "http/sse.py": "import roadworthy.engine.worker",
    "services/streams.py": "import roadworthy.settings",
    "ports/clock.py": "import roadworthy.services.keys",
    "bag.py": '"""A module without a place."""',
}
CONTRACTS = {
    "Layers",
    "The web side never touches engine, storage or runtimes",
    "Settings are read where things are wired",
    "The core is free of frameworks",
    "No import cycles between siblings",
}


def test_the_contracts_hold() -> None:
    verdicts, output = _lint(ROOT)
    assert set(verdicts) == CONTRACTS
    assert set(verdicts.values()) == {"KEPT"}, output


def test_each_contract_fails_when_it_is_broken(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "src" / "roadworthy", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name, line in VIOLATIONS.items():
        with (tmp_path / "src" / "roadworthy" / name).open("a", encoding="utf-8") as module:
            module.write(f"\n{line}\n")
    verdicts, output = _lint(tmp_path)
    assert set(verdicts) == CONTRACTS
    assert set(verdicts.values()) == {"BROKEN"}, output


def _lint(folder: Path) -> tuple[dict[str, str], str]:
    """Verdict by contract for the package in ``folder``."""
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "src"), "NO_COLOR": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.findall(r"^(.+?) (KEPT|BROKEN)", done.stdout, flags=re.MULTILINE)
    return dict(found), done.stdout + done.stderr
