"""What must hold of every history, whatever has gone wrong in it. I1 to I7 are those of the reliability promises; the
witnesses are the database's record of every movement, the provider's ledger, and what clients were shown.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from roadworthy.domain.errors import ProviderUnavailable, StorageUnavailable
from roadworthy.domain.event import AttemptStarted, Event, EventId, RunEnded, RunStarted
from roadworthy.domain.run import MultitaskStrategy, Run
from roadworthy.storage.event_rows import event_from
from roadworthy.storage.rows import micros
from tests.fault.simulation.clients import PAYING, Follower
from tests.fault.simulation.database import START
from tests.fault.simulation.history import History

_FINAL = {"success", "error", "timeout", "cancelled", "interrupted"}
# For how long a process that was stopped may go on with what it has lost: until it looks, and the grace of a cancel.
_UNAWARE = 0.7
# After being disturbed, or continuing, it may lose what it has.
_TROUBLED = 30


def judge(history: History) -> list[str]:
    """Everything that is wrong."""
    complaints = [*history.faults, *history.leftovers(), *history.clients.surprises]
    for process in history.fleet:
        complaints += [f"{process.name}: {trouble}" for trouble in process.loop.troubles]
    for look in (_one_end, _answers, _order, _calls, _money, _work, _keeps, _events, _transcripts, _words):
        complaints += [f"{look.__name__[1:]}: {complaint}" for complaint in look(history)]
    return complaints


def _moves(history: History) -> list[Any]:
    return history.server.rows("SELECT * FROM moves ORDER BY id")


def _one_end(history: History) -> Iterator[str]:
    """I1: once final, a run never moves again; attempts only grow; every run ends; its end is told once at most."""
    ended: set[str] = set()
    for move in _moves(history):
        if move["old"] in _FINAL:
            yield f"{move['run_id']} went from {move['old']} to {move['new']}"
        if move["attempt"] < move["old_attempt"]:
            yield f"{move['run_id']} went back from attempt {move['old_attempt']} to {move['attempt']}"
        if move["new"] in _FINAL:
            ended.add(move["run_id"])
    told = Counter(run.run_id for process in history.fleet for run in process.witness.finished)
    for row in history.server.rows("SELECT run_id, status, result FROM runs"):
        if row["run_id"] not in ended or row["status"] not in _FINAL or row["result"] is None:
            yield f"{row['run_id']} has not ended: {row['status']}"
        if told[row["run_id"]] > 1:
            yield f"the end of {row['run_id']} was told {told[row['run_id']]} times"


def _answers(history: History) -> Iterator[str]:
    """What was accepted is there; one run for a key, and every answer names it."""
    stored = {row["run_id"] for row in history.server.rows("SELECT run_id FROM runs")}
    for order in history.clients.orders:
        answered = {run.run_id for run in order.answers}
        if answered - stored:
            yield f"accepted and not there: {sorted(answered - stored)}"
        made = stored & set(order.sent)
        if order.key is not None and (len(answered) > 1 or len(made) > 1):
            yield f"{order.key} has made {sorted(made)}, and was answered {sorted(answered)}"
        if order.answers and order.key is not None and made != answered:
            yield f"{order.key} was answered {sorted(answered)} and has made {sorted(made)}"
        if order.refused == "thread_busy" and order.strategy is not MultitaskStrategy.REJECT:
            yield f"{order.sent[0]} was refused, whose policy is {order.strategy}"


def _order(history: History) -> Iterator[str]:
    """Runs of a thread follow each other in their order and never overlap."""
    active: dict[str, str] = {}
    last: dict[str, int] = defaultdict(int)
    for move in _moves(history):
        thread, run_id = move["thread"], move["run_id"]
        if move["new"] == "running" and move["old"] != "running":
            if thread in active:
                yield f"{run_id} began while {active[thread]} was running"
            if move["ord"] < last[thread]:
                yield f"{run_id} began after a later run of {thread}"
            active[thread], last[thread] = run_id, move["ord"]
        elif move["old"] == "running" and move["new"] != "running" and active.get(thread) == run_id:
            del active[thread]
    clashes = history.server.rows("SELECT tenant, thread_id, ord FROM runs GROUP BY 1, 2, 3 HAVING count(*) > 1")
    yield from (f"an ordinal was given twice: {row}" for row in clashes)


def _calls(history: History) -> Iterator[str]:
    """I2 and I3: what the provider was asked is on record, less what was in flight in a process that died."""
    recorded = {row["call_id"]: row for row in history.server.rows("SELECT * FROM model_calls")}
    dead = {process.name for process in history.fleet if not process.alive}
    for call_id, asked in history.provider.asked.items():
        row = recorded.pop(call_id, None)
        if row is None:
            paying = history.server.rows("SELECT tenant FROM runs WHERE run_id = ?", asked.run_id)[0]["tenant"]
            # With a budget money is held for it, so that it is heard of in any case.
            if asked.process not in dead or paying == PAYING:
                yield f"{call_id} of {asked.process} is not on record"
            continue
        tokens = (row["input_tokens"], row["output_tokens"])
        if row["outcome"] == "complete" and tokens != (asked.tokens.input, asked.tokens.output):
            yield f"{call_id} is on record with other tokens: {tokens}"
    for call_id, row in recorded.items():
        if row["outcome"] == "complete":
            yield f"{call_id} is on record as {row['outcome']} and the provider was never asked"


def _money(history: History) -> Iterator[str]:
    """I3: the budget has counted every call of its tenant, and each of them once."""
    (due,) = history.server.rows("SELECT coalesce(sum(cost_nanos), 0) AS n FROM model_calls WHERE tenant = ?", PAYING)
    (spent,) = history.server.rows("SELECT coalesce(sum(spent_nanos), 0) AS n FROM budget_periods")
    if due["n"] != spent["n"]:
        yield f"the budget has counted {spent['n']} and the ledger {due['n']}"


def _work(history: History) -> Iterator[str]:
    """Nobody works on a run that is another's, other than who was stopped and has not looked yet."""
    continued = {process.name: process.continued for process in history.fleet}
    for work in history.provider.work:
        unaware = any(0 <= work.at - moment <= _UNAWARE for moment in continued[work.process])
        if work.holder != work.attempt and not unaware:
            yield f"{work.process} worked on {work.run_id}-{work.attempt} at {work.at:.3f}, of attempt {work.holder}"


def _keeps(history: History) -> Iterator[str]:
    """Nobody is taken a run who lives undisturbed."""
    troubled = {process.name: process.troubled for process in history.fleet}
    for move in _moves(history):
        if move["old"] == "running" and move["new"] == "pending":
            at = (move["at"] - micros(START)) / 1_000_000
            if not any(0 <= at - moment <= _TROUBLED for moment in troubled[move["old_worker"]]):
                yield f"{move['run_id']} was taken from {move['old_worker']} at {at:.3f}, which had no trouble"


def _events(history: History) -> Iterator[str]:
    """I4: gapless within an attempt, and nothing of a dead attempt behind what its successor has named as the last."""
    for run, events in _stored(history):
        by_attempt: dict[int, list[Event]] = defaultdict(list)
        for event in events:
            by_attempt[event.id.attempt].append(event)
        for attempt, told in by_attempt.items():
            if [event.id.n for event in told] != list(range(1, len(told) + 1)):
                yield f"{run.run_id}, attempt {attempt}: {[event.id.n for event in told]}"
            first = told[0].body
            if not isinstance(first, RunStarted if attempt == 1 else AttemptStarted):
                yield f"{run.run_id}, attempt {attempt} begins with {type(first).__name__}"
            if isinstance(first, AttemptStarted):
                before = [event.id for event in events if event.id.attempt < attempt]
                last = str(before[-1]) if before else None
                if last != first.last_valid:
                    yield f"{run.run_id}, attempt {attempt} named {first.last_valid} as the last, and it is {last}"


def _transcripts(history: History) -> Iterator[str]:
    """I4 at the client: in order, without gaps in an attempt, what is stored, and the same end for everybody. Every
    process tells the same, however late.
    """
    stored = {run.run_id: {event.id: event for event in events} for run, events in _stored(history)}
    last = {run.run_id: run.attempt for run in history.runs()}
    for name, runs in history.told.items():
        for run_id, events in stored.items():
            told = runs.get(run_id, ())
            if [*told[:-1]] != [*events.values()] or not told or not isinstance(told[-1].body, RunEnded):
                yield f"{run_id}: {name} tells {[str(one.id) for one in told]}, stored are {[*map(str, events)]}"
    for follower in history.clients.followers:
        run_id = follower.run.run_id
        yield from (f"{run_id}: {complaint}" for complaint in _shown(follower, stored[run_id], last[run_id]))
        for name, told in history.told.items():
            if not follower.ended or [follower.shown[-1]] != [*told.get(run_id, ())][-1:]:
                yield f"{run_id}: the end was shown as {follower.shown[-1:]}, and {name} tells {told.get(run_id)}"


def _shown(follower: Follower, stored: dict[EventId, Event], last: int) -> Iterator[str]:
    for before, after in pairwise(event.id for event in follower.shown):
        if after <= before:
            yield f"{after} was shown after {before}"
        elif after.attempt == before.attempt and after.n != before.n + 1:
            yield f"{after} was shown right after {before}"
    valid = {event.body.last_valid for event in stored.values() if isinstance(event.body, AttemptStarted)}
    for event in follower.shown:
        kept = stored.get(event.id)
        if kept is not None and kept != event:
            yield f"{event.id} was shown as {event.body} and is stored as {kept.body}"
        of_the_last = event.id.attempt == last and not isinstance(event.body, RunEnded)
        if kept is None and (of_the_last or str(event.id) in valid):
            yield f"{event.id} was shown and is not stored"


def _words(history: History) -> Iterator[str]:
    """No process has met an error that it does not know."""
    for process in history.fleet:
        for failure in process.witness.failures:
            # A database that is away for longer than a unit's patience ends an attempt that needs it to begin.
            if not isinstance(_inner(failure), ProviderUnavailable | StorageUnavailable):
                yield f"{process.name} failed: {failure!r} {failure.__cause__!r}"


def _inner(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _stored(history: History) -> Iterator[tuple[Run, Sequence[Event]]]:
    for run in history.runs():
        rows = history.server.connection.execute(
            "SELECT events.attempt, n, type, body FROM events JOIN runs ON seq = run_seq WHERE run_id = ? "
            "ORDER BY 1, 2",
            (run.run_id,),
        )
        yield run, [event_from(run.ord, one) for one in rows]
