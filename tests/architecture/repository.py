"""What the architecture tests look at: the files of the repository and the source as syntax trees."""

import ast
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "roadworthy"


def modules(under: Path = PACKAGE) -> Iterator[Path]:
    """Every Python file below a folder."""
    return iter(sorted(path for path in under.rglob("*.py") if "__pycache__" not in path.parts))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def name_of(path: Path) -> str:
    """A module as people speak of it: ``engine/worker.py``, or the path in the repository for other files."""
    return path.relative_to(PACKAGE if path.is_relative_to(PACKAGE) else ROOT).as_posix()


def repository_files() -> list[Path]:
    """Files that are or would be committed. Skips, loudly, where this is no git checkout."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("NOT CHECKED: the committed files can be listed only in a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]
