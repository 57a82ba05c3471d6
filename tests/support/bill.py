"""I3, whether the bill is right: the ledger against the provider's own, and the budgets against the ledger.

Part of ``invariants.py``. The two ledgers share no call ids, so calls are matched by what they cost.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tests.support.provider.ledger import LedgerEntry
from tests.support.provider.prices import charged_nanos
from tests.support.server import Inspected

Row = Mapping[str, Any]

# An estimate may be off by this part of what the provider charges.
TOLERANCE = 0.2
_SUBJECTS = {"run": "run_id", "key": "key_id", "user": "owner", "agent": "agent", "tenant": "tenant"}


def check_bill(server: Inspected, ledger: Sequence[LedgerEntry], *, in_flight: int) -> None:
    """Assert that what is on record is what the provider charges.

    Calls that ended well cost the same to the nano-USD; those that were cut off are flagged as estimates, and each is
    within 20 %. Up to `in_flight` calls died with their server: they are missing, or they are on record as lost,
    flagged. These are within 20 % too, but for three things that no server can know: text that was not in its log yet
    makes a lost call cheaper, a call may have died before it reached the provider, and nobody looks at the text of a
    run that the sweep finds ended, so that it costs what was reserved.
    """
    rows = server.rows("SELECT * FROM model_calls")
    assert all(row["cost_nanos"] is not None and (row["price_version"] or not row["cost_nanos"]) for row in rows), rows
    lost = [row for row in rows if row["outcome"] == "lost"]
    assert len(lost) <= in_flight, lost
    assert all(row["estimated"] and row["cost_nanos"] > 0 for row in lost), lost
    kept = [row for row in rows if row["outcome"] != "lost"]
    taken_up = [row for row in lost if row["price_version"] != "reservation"]
    unmatched = _match_lost(taken_up, _match_estimates(kept, _match_exact(kept, ledger)))
    assert len(unmatched) <= in_flight - len(taken_up), unmatched
    check_runs_are_charged(server, rows)


def check_runs_are_charged(server: Inspected, rows: Sequence[Row]) -> None:
    """A run that has ended tells the sum of its calls on record. What a worker that had lost the run adds after its
    successor has begun is on record, but not told: the run's usage says that it is an estimate.
    """
    sums: Counter[str] = Counter()
    for row in rows:
        sums[row["run_id"]] += row["cost_nanos"]
    for run in server.rows("SELECT run_id, attempt, result FROM runs WHERE result IS NOT NULL"):
        usage = json.loads(run["result"])["usage"]
        told, spent = usage.get("cost_nanos", 0), sums[run["run_id"]]
        late = run["attempt"] > 1 and usage.get("estimated", False)
        assert told == spent or (late and told < spent), run


def check_budgets(server: Inspected) -> None:
    """Nothing is held, and what a budget of all times has spent is what the ledger says of its subject."""
    assert server.rows("SELECT * FROM reservations") == []
    periods = server.rows("SELECT * FROM budget_periods JOIN (SELECT budget_id, scope FROM budgets) USING (budget_id)")
    for period in periods:
        assert period["reserved_nanos"] == 0, period
        column = _SUBJECTS[period["scope"]]
        (ledger,) = server.rows(
            f"SELECT coalesce(sum(cost_nanos), 0) AS spent FROM model_calls WHERE {column} = ? AND started_at >= ?",
            period["subject"],
            period["starts_at"],
        )
        assert period["spent_nanos"] == ledger["spent"], period


def _match_exact(kept: Sequence[Row], ledger: Sequence[LedgerEntry]) -> list[int]:
    """What the provider charges for all calls but those on record with their exact cost."""
    charged = Counter(charged_nanos(entry) for entry in ledger if entry.outcome == "complete")
    exact = Counter(row["cost_nanos"] for row in kept if not row["estimated"] and row["cost_nanos"])
    assert exact <= charged, (exact - charged, charged - exact)
    partial = [nanos for entry in ledger if entry.outcome != "complete" and (nanos := charged_nanos(entry))]
    return [*(charged - exact).elements(), *partial]


def _match_estimates(kept: Sequence[Row], charged: Sequence[int]) -> list[int]:
    """What is left of `charged` when each estimate has taken the one that it is about, cheapest first."""
    left = sorted(charged)
    for row in sorted((row for row in kept if row["estimated"]), key=lambda row: row["cost_nanos"]):
        near = next((nanos for nanos in left if abs(row["cost_nanos"] - nanos) <= TOLERANCE * nanos), None)
        assert near is not None, (row, left)
        left.remove(near)
    return left


def _match_lost(lost: Sequence[Row], charged: Sequence[int]) -> list[int]:
    """What is left of `charged` when each lost call has taken the one that it is about, else the next dearer one. One
    for which there is none has shown nothing: the provider has never heard of it.
    """
    left = sorted(charged)
    for row in sorted(lost, key=lambda row: row["cost_nanos"]):
        near = next((nanos for nanos in left if row["cost_nanos"] <= (1 + TOLERANCE) * nanos), None)
        if near is None:
            assert not row["output_tokens"], (row, left)
        else:
            left.remove(near)
    return left
