"""`roadworthy usage` and `roadworthy audit` beside a running server."""

import csv
import getpass
import io
import json
from pathlib import Path

from tests.e2e.command import run, serving


async def test_an_operator_sees_who_spent_what(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        _, key, _ = await run(tmp_path, "keys", "create", "--user", "ann", "--tenant", "acme")
        for one in (server.first_key, key.strip()):
            async with server.client(one) as client:
                answer = await client.post("/agent/invoke", json={"message": "How do I cancel a run?"})
                assert answer.status_code == 200
        code, table, hint = await run(tmp_path, "usage", "--by", "day,user")
        assert code == 0
        assert "admin" in table
        assert "ann" in table
        assert "days are those of UTC" in hint
        _, out, _ = await run(tmp_path, "usage", "--by", "tenant,user", "--json")
        report = json.loads(out)
        assert [(row["tenant"], row["user"], row["runs"]) for row in report["rows"]] == [
            ("acme", "ann", 1),
            ("default", "admin", 1),
        ]
        assert all(row["model_calls"] >= 1 and row["unpriced_calls"] == 0 for row in report["rows"])
        _, out, _ = await run(tmp_path, "usage", "--by", "user,model", "--tenant", "acme", "--user", "ann", "--csv")
        (row,) = csv.DictReader(io.StringIO(out))
        assert (row["user"], row["runs"], row["cost_usd"]) == ("ann", "1", "0")
        _, out, _ = await run(tmp_path, "usage", "--user", "nobody", "--json")
        assert json.loads(out)["rows"] == []


async def test_an_operator_sees_who_changed_what(tmp_path: Path) -> None:
    for limit in ("5", "6"):
        await run(tmp_path, "budgets", "set", "--scope", "tenant", "--window", "day", "--limit", limit)
    await run(tmp_path, "keys", "create", "--user", "ann", "--tenant", "acme")
    code, table, _ = await run(tmp_path, "audit")
    assert code == 0
    for text in (f"cli:{getpass.getuser()}", "budget.set", "limit $5.00 → $6.00", "key.create", "new: user ann"):
        assert text in table
    _, out, _ = await run(tmp_path, "audit", "--tenant", "default", "--json")
    changed, made = json.loads(out)
    assert (changed["action"], changed["before"]["limit_nanos"], changed["after"]["limit_nanos"]) == (
        "budget.set",
        5 * 10**9,
        6 * 10**9,
    )
    assert made["before"] is None
    _, out, _ = await run(tmp_path, "audit", "--since", "2999-01-01", "--json")
    assert json.loads(out) == []
