"""What `budgets`, `rates` and `audit` answer to an operator, on a data folder of their own."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from roadworthy.cli.main import app

EACH = ("budgets", "set", "--scope", "user", "--window", "day")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ROADWORTHY_DATA_DIR", "ROADWORTHY_TIME_ZONE"):
        monkeypatch.delenv(name, raising=False)


def done(*args: str) -> Result:
    result = CliRunner().invoke(app, list(args))
    assert result.exit_code == 0, result.output
    return result


def test_setting_one_of_both_limits_keeps_the_other() -> None:
    assert "$3.00, a warning at $2.40" in done(*EACH, "--limit", "3").stderr
    assert "$3.00, a warning at $2.00" in done(*EACH, "--soft", "2").stderr
    assert "$4.00, a warning at $2.00" in done(*EACH, "--limit", "4").stderr
    assert "no limit, a warning at $2.00" in done(*EACH, "--no-limit").stderr
    assert "$5.00, a warning at $4.00" in done(*EACH, "--limit", "5", "--no-soft").stderr


def test_a_list_shows_what_was_topped_up_where_something_was() -> None:
    budget_id = done("budgets", "set", "--scope", "tenant", "--window", "day", "--limit", "3").stdout.strip()
    assert "TOPPED UP" not in done("budgets", "list").stdout
    assert "default has $5.000001 left" in done("budgets", "top-up", budget_id, "2.000001").stderr
    heads, row = done("budgets", "list").stdout.splitlines()
    assert "TOPPED UP" in heads
    for text in ("$3.00", "$2.000001", "$5.000001"):
        assert text in row


def test_the_audit_log_says_whose_budget_was_topped_up() -> None:
    budget_id = done(*EACH, "--limit", "3").stdout.strip()
    done("budgets", "top-up", budget_id, "2", "--subject", "alice")
    assert "alice: topped_up $0.00 → $2.00" in done("audit").stdout


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (("budgets", "set", "--scope", "key", "--window", "day", "--limit", "5"), "no key abcdefghijkl is known"),
        (("budgets", "set", "--scope", "agent", "--window", "day", "--limit", "5"), "no agent abcdefghijkl has run"),
        (("rates", "set", "--scope", "key", "--kind", "runs", "--limit", "1"), "no key abcdefghijkl is known"),
    ],
)
def test_a_limit_for_nobody_is_set_with_a_hint(args: tuple[str, ...], hint: str) -> None:
    assert hint in done(*args, "--subject", "abcdefghijkl").stderr


def test_a_limit_for_a_key_that_is_there_gives_no_hint() -> None:
    done("keys", "create", "--user", "ann")
    key_id = done("keys", "list").stdout.splitlines()[1].split()[0]
    result = done("rates", "set", "--scope", "key", "--kind", "runs", "--limit", "1", "--subject", key_id)
    assert "no key" not in result.stderr
    assert "at most 1 run at once" in result.stderr
    assert "1 run at once" in done("rates", "list").stdout
