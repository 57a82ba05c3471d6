"""The README and the docs, done as a newcomer would do them, and held against the command line they describe."""

import asyncio
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from roadworthy.cli.main import app
from tests.e2e.command import COMMAND, environment, serving

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND_LINE = re.compile(r"roadworthy((?: [a-z]+)+)((?:\s+(?!\|)[^\s`)(]+)*)")


async def test_the_tour_of_the_readme_works_line_by_line(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("NOT CHECKED: the tour needs curl")
    tour = (ROOT / "README.md").read_text().split("## The tour")[1].split("\n## ")[0]
    *steps, last = BLOCK.findall(tour)
    assert "roadworthy serve my_agent.py:graph" in last
    async with serving(tmp_path) as server:
        script = "set -eu\n" + "\n".join(steps).replace("http://127.0.0.1:8000", server.url)
        path = f"{COMMAND.parent}:{environment(tmp_path)['PATH']}"
        process = await asyncio.create_subprocess_exec(
            "sh",
            "-c",
            script,
            stdout=asyncio.subprocess.PIPE,
            env={**environment(tmp_path), "PATH": path},
            cwd=tmp_path,
        )
        out, _ = await process.communicate()
    text = out.decode()
    assert process.returncode == 0, text
    for sight in ('"status":"success"', "docs/operations.md", '"type":"tool_call"', '"type":"done"', "verdict: ok"):
        assert sight in text
    # Two runs on the thread, as the thread and the list show them.
    assert text.count('"thread_id":"tour"') >= 2
    assert len(re.findall(r"^[0-9a-f]{32} +success", text, re.MULTILINE)) == 2


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {target for page in PAGES for target in re.findall(r"`make ([a-z-]+)`", page.read_text())}
    assert {"run", "test"} <= named
    assert named <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_that_a_page_names_exists(page: Path) -> None:
    known = dict(_commands())
    wrong: list[str] = []
    for words, rest in COMMAND_LINE.findall(page.read_text()):
        name = next((n for n in known if words.strip() == n or words.strip().startswith(f"{n} ")), None)
        if name is None:
            continue
        wrong += [f"{name} {option}" for option in re.findall(r"--[a-z-]+", rest) if option not in known[name]]
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_follows_the_command_in_code_is_a_command(page: Path) -> None:
    groups = {name.split()[0] for name, _ in _commands()}
    named = re.findall(r"(?:`|^|\()roadworthy ([a-z]+)", page.read_text(), re.MULTILINE)
    assert set(named) <= groups


def _commands() -> Iterator[tuple[str, set[str]]]:
    """Each command's full name with the options that it takes."""
    group = typer.main.get_command(app)
    for name, command in getattr(group, "commands", {}).items():
        for below, leaf in getattr(command, "commands", {"": command}).items():
            options = {option for parameter in leaf.params for option in parameter.opts}
            yield f"{name} {below}".strip(), options
