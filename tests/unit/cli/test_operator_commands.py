"""What `budgets`, `rates`, `usage`, `runs` and `audit` refuse, and with which words."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from roadworthy.cli.main import app
from roadworthy.domain.errors import InvalidRequest, NotFound

EACH = ("budgets", "set", "--scope", "user", "--window", "day")
MISTAKES: list[tuple[tuple[str, ...], str]] = [
    ((*EACH, "--limit", "five"), "'five' is no amount of USD"),
    ((*EACH, "--limit", "1e400"), "no amount of USD"),
    ((*EACH, "--limit", "5", "--soft", "6"), "at most the limit, $5.00"),
    ((*EACH, "--limit", "5", "--subject", "a b"), "a user must be"),
    ((*EACH, "--limit", "5", "--time-zone", "Mars"), "no IANA time zone"),
    ((*EACH, "--limit", "5", "--tenant", "/"), "a tenant must be"),
    (EACH, "needs a limit"),
    (("budgets", "set", "--scope", "user", "--limit", "5"), "the window day, week, month or total"),
    ((*EACH, "--limit", "5", "--no-limit"), "choose one of --limit and --no-limit"),
    ((*EACH, "--limit", "0.0000000001"), "finer than a billionth"),
    (("budgets", "top-up", "nope", "-1"), "from 0 to a billion"),
    (("budgets", "set", "--scope", "run", "--window", "day", "--limit", "5"), "goes with the window run"),
    (("budgets", "list", "--subject", "alice"), "which scope"),
    (("budgets", "top-up", "nope", "5"), "there is no budget nope"),
    (("budgets", "remove", "nope"), "there is no budget nope"),
    (("rates", "remove", "--scope", "key", "--kind", "runs"), "there is no limit on runs for each key"),
    (("rates", "set", "--scope", "key", "--kind", "runs", "--limit", "1", "--subject", "alice"), "a key's id is"),
    (("usage", "--by", "colour"), "'colour' is nothing to list by"),
    (("usage", "--by", "day,day"), "named once"),
    (("usage", "--since", "yesterday"), "'yesterday' is no day or moment"),
    (("usage", "--since", "2026-02-30"), "2026-01-31"),
    (("usage", "--since", "2020-01-01"), "year by year"),
    (("usage", "--user", "a b"), "a user must be"),
    (("usage", "--tenant", "/"), "a tenant must be"),
    (("usage", "--json", "--csv"), "choose one"),
    (("runs", "resolve", "0" * 32, "--tool-call", "c"), "give either --result or --run-again"),
    (("runs", "resolve", "0" * 32, "--tool-call", "c", "--result", "x", "--run-again"), "give either --result or"),
    (("runs", "resolve", "0" * 32, "--tool-call", "c", "--run-again"), "there is no run 0000"),
    (("audit", "--since", "9999-99-99"), "is no day or moment"),
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ROADWORTHY_DATA_DIR", "ROADWORTHY_TIME_ZONE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("args", "complaint"), MISTAKES, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_a_mistake_is_explained(args: tuple[str, ...], complaint: str) -> None:
    done = CliRunner().invoke(app, list(args))
    assert isinstance(done.exception, InvalidRequest | NotFound)
    assert complaint in done.exception.message
    assert done.stdout == ""
