"""Whether a fleet's books are right: its database against what clients were told and what the model itself noted.

Every client gave each question a key of its own and asked again until it was answered. So a question is a run, a run is
an answer, and each call that the model began is on the ledger once: exactly when it was told to the end, else as an
estimate. ``replicas.py`` asks.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from tests.support.transcript import Transcript

# USD per million tokens of the model; a token costs so many nano-USD.
INPUT_USD, OUTPUT_USD = 3, 15
PRICES = f'["scripted:scripted"]\ninput = {INPUT_USD}\noutput = {OUTPUT_USD}\n'
_NANOS = 1000

Found = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """``problems``: by what is wrong, the questions or ids. Money is in nano-USD: ``witnessed`` of the calls that the
    model ended, ``exact`` and ``estimated`` of the ledger's; ``unseen``: ended calls that the ledger has as estimates.
    """

    problems: Mapping[str, Sequence[str]]
    takeovers: int
    calls: int
    witnessed: int
    exact: int
    unseen: int
    unseen_nanos: int
    estimates: int
    estimated: int


def check(url: str, witness: Path, told: Mapping[str, Transcript], answer: str) -> Books:
    """``told``: what each question's client saw; ``answer``: the text that each must be left with."""
    runs = _rows(url, "SELECT run_id, status, attempt, thread_id FROM runs")
    calls = _rows(url, "SELECT run_id, outcome, estimated, cost_nanos FROM model_calls")
    begun, ended = _witnessed(witness)
    asked = {transcript.run_id: question for question, transcript in told.items() if transcript.frames}
    exact: dict[str, Counter[int]] = {}
    rows: Counter[str] = Counter()
    for call in calls:
        question = asked.get(call["run_id"], "nobody's")
        rows[question] += 1
        if not call["estimated"]:
            exact.setdefault(question, Counter())[call["cost_nanos"]] += 1
    unseen = {question: costs - exact.get(question, Counter()) for question, costs in ended.items()}
    kept = [call["cost_nanos"] for call in calls if not call["estimated"]]
    guessed = [call["cost_nanos"] for call in calls if call["estimated"]]
    return Books(
        problems={
            "lost": [question for question, one in told.items() if one.done is None or one.done["status"] != "success"],
            "unfinished": [run["run_id"] for run in runs if run["status"] != "success"],
            "doubled": [run["run_id"] for run in runs if run["run_id"] not in asked],
            "told wrongly": [question for question, one in told.items() if not _is_right(one, answer)],
            "paid twice": [question for question, costs in exact.items() if costs - ended.get(question, Counter())],
            "not paid": [question for question, count in begun.items() if rows[question] < count],
            "paid for nothing": [
                question
                for run in runs
                if rows[question := asked.get(run["run_id"], "")] > begun[question] + run["attempt"] - 1
            ],
            "held": _held(url),
            "budget wrong": _wrong_budgets(url),
        },
        takeovers=sum(run["attempt"] - 1 for run in runs),
        calls=len(calls),
        witnessed=sum(cost * count for costs in ended.values() for cost, count in costs.items()),
        exact=sum(kept),
        unseen=sum(costs.total() for costs in unseen.values()),
        unseen_nanos=sum(cost * count for costs in unseen.values() for cost, count in costs.items()),
        estimates=len(guessed),
        estimated=sum(guessed),
    )


def sizes(url: str) -> Iterator[tuple[str, int]]:
    """Tables with the bytes of their rows and indexes, the largest first."""
    for row in _rows(
        url,
        "SELECT relname, pg_total_relation_size(relid) AS bytes FROM pg_stat_user_tables ORDER BY 2 DESC",
    ):
        yield row["relname"], row["bytes"]


def _witnessed(witness: Path) -> tuple[Counter[str], Mapping[str, Counter[int]]]:
    """Of each question: calls that began, and the costs of those that ended."""
    begun: Counter[str] = Counter()
    ended: dict[str, Counter[int]] = {}
    for line in witness.read_text().splitlines():
        note = json.loads(line)
        if note["what"] == "begun":
            begun[note["asked"]] += 1
        else:
            cost = (note["input"] * INPUT_USD + note["output"] * OUTPUT_USD) * _NANOS
            ended.setdefault(note["asked"], Counter())[cost] += 1
    return begun, ended


def _is_right(transcript: Transcript, answer: str) -> bool:
    """The text is whole and once, and events come in order, none of an attempt missing."""
    positions = [tuple(int(part) for part in text.split("-")) for text in dict.fromkeys(transcript.ids)]
    return transcript.text() == answer and positions == sorted(positions) and _gapless(positions)


def _gapless(positions: Iterable[tuple[int, ...]]) -> bool:
    last: dict[tuple[int, ...], int] = {}
    for *place, n in positions:
        if last.get(tuple(place), n - 1) != n - 1:
            return False
        last[tuple(place)] = n
    return True


def _held(url: str) -> Sequence[str]:
    return [row["call_id"] for row in _rows(url, "SELECT call_id FROM reservations")]


def _wrong_budgets(url: str) -> Sequence[str]:
    """Periods that hold money, or have spent something else than what the ledger says of their user."""
    return [
        row["subject"]
        for row in _rows(
            url,
            "SELECT subject FROM budget_periods WHERE reserved_nanos != 0 OR "
            "spent_nanos != (SELECT coalesce(sum(cost_nanos), 0) FROM model_calls "
            "WHERE owner = budget_periods.subject)",
        )
    ]


def _rows(url: str, sql: str) -> Found:
    with psycopg.connect(url) as connection, connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(sql.encode()).fetchall()
