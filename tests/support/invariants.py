"""I1 to I5 and I7 of the reliability promises, checked from outside: provider's ledger, database, logs, transcripts."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.support.bill import check_bill, check_budgets
from tests.support.provider.ledger import LedgerEntry
from tests.support.server import Inspected
from tests.support.transcript import Transcript

FINAL = {"success", "error", "timeout", "cancelled", "interrupted"}
BILLED = {"complete", "cut", "reset", "garbage", "client_gone"}


def check_invariants(
    server: Inspected,
    ledger: Sequence[LedgerEntry],
    *,
    transcripts: Iterable[Transcript] = (),
    in_flight: int = 0,
) -> None:
    """Assert what must hold on every history. `in_flight`: model calls that died with a killed server."""
    check_one_end_for_each_run(server)
    check_calls_are_on_record(server, ledger, in_flight=in_flight)
    check_bill(server, ledger, in_flight=in_flight)
    check_budgets(server)
    check_events_are_gapless(server)
    check_no_thread_is_broken(ledger)
    for transcript in transcripts:
        check_transcript(transcript)


def check_one_end_for_each_run(server: Inspected) -> None:
    """I1: every accepted run has exactly one terminal state, and one record of it in the logs."""
    runs = {row["run_id"]: row["status"] for row in server.rows("SELECT run_id, status FROM runs")}
    assert set(runs.values()) <= FINAL, runs
    records = Counter(record["run_id"] for record in log_records(server) if record.get("event") == "run_finished")
    doubled = {run_id: count for run_id, count in records.items() if count > 1}
    assert not doubled, doubled


def check_calls_are_on_record(server: Inspected, ledger: Sequence[LedgerEntry], *, in_flight: int) -> None:
    """I2 and I3: what the provider would bill is what the ledger holds, less the calls in flight at a kill."""
    billed = [entry for entry in ledger if entry.outcome in BILLED]
    # A lost call is a guess of the server that follows: it may never have reached the provider.
    recorded = server.rows(
        "SELECT * FROM model_calls WHERE outcome != 'lost' AND (outcome != 'failed' OR input_tokens > 0)"
    )
    assert len(billed) - in_flight <= len(recorded) <= len(ledger), (len(billed), len(recorded))
    complete = [entry for entry in billed if entry.outcome == "complete"]
    exact = [row for row in recorded if row["outcome"] == "complete" and not row["estimated"]]
    if not in_flight:
        assert sum(row["input_tokens"] for row in exact) == sum(entry.input_tokens for entry in complete)
        assert sum(row["output_tokens"] for row in exact) == sum(entry.output_tokens for entry in complete)
    assert all(row["estimated"] for row in recorded if row["outcome"] in {"cut", "cancelled"}), recorded


def check_events_are_gapless(server: Inspected) -> None:
    """I4: within an attempt, durable events are numbered from 1 without a gap."""
    rows = server.rows("SELECT run_seq, attempt, count(*) AS count, max(n) AS last FROM events GROUP BY 1, 2")
    gaps = [row for row in rows if row["count"] != row["last"]]
    assert not gaps, gaps


def check_no_thread_is_broken(ledger: Sequence[LedgerEntry]) -> None:
    """I5: the provider never refused a history."""
    refused = [entry for entry in ledger if entry.outcome == "bad_request"]
    assert not refused, refused


def check_transcript(transcript: Transcript) -> None:
    """I4 at the client: ids never repeat or go back, and within an attempt none is missing."""
    positions = [tuple(int(part) for part in text.split("-")) for text in dict.fromkeys(transcript.ids)]
    assert positions == sorted(positions), positions
    for before, after in pairwise(positions):
        if before[:2] == after[:2]:
            assert after[2] == before[2] + 1, (before, after)


def log_records(server: Inspected) -> list[dict[str, Any]]:
    """The server's JSON log lines."""
    records: list[dict[str, Any]] = []
    for line in server.logs.splitlines():
        if line.startswith("{"):
            records.append(json.loads(line))
    return records


def open_descriptors(pid: int) -> int:
    """File descriptors that a process holds."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def threads_of(pid: int) -> int:
    """Threads that a process runs."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))
