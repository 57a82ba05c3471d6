"""Random histories of three processes on one database, each judged; and with a rule broken, which must be seen.

A history follows from its seed alone. One that is judged badly prints what has happened, and how to see it again::

    ROADWORTHY_SEED=17 pytest tests/fault/simulation
"""

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import closing

import pytest

from tests.fault.simulation.breaking import PLAIN, SUBTLE, Break
from tests.fault.simulation.history import Ground, History
from tests.fault.simulation.judgement import judge

SEEDS = 200
SOAK_SEEDS = 10_000
AT_ONCE = 25
# A broken rule is seen within so many histories.
SOON, LATE = 60, 1_000


def chosen(first: int, seeds: int) -> Sequence[range]:
    """Seeds, in portions for a test each; or the one that the environment names."""
    one = os.environ.get("ROADWORTHY_SEED")
    if one is not None:
        return [range(int(one), int(one) + 1)]
    return [range(start, start + AT_ONCE) for start in range(first, first + seeds, AT_ONCE)]


def check(seeds: range, ground: Ground) -> None:
    for seed in seeds:
        with closing(History(seed, ground)) as history:
            history.play()
            if complaints := judge(history):
                replay = f"See it again: ROADWORTHY_SEED={seed} pytest tests/fault/simulation"
                pytest.fail("\n".join([*history.world.history, "", *complaints, "", replay]), pytrace=False)


@pytest.mark.parametrize("seeds", chosen(0, SEEDS), ids=str)
def test_every_promise_holds_on_random_histories(seeds: range, ground: Ground) -> None:
    check(seeds, ground)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seeds", chosen(SEEDS, SOAK_SEEDS), ids=str)
def test_every_promise_holds_on_many_random_histories(seeds: range, ground: Ground) -> None:
    check(seeds, ground)


def first_bad(rule: Break, seeds: int, ground: Ground, monkeypatch: pytest.MonkeyPatch) -> int | None:
    """The first seed whose history is judged badly while the rule is broken."""
    rule(ground.text, monkeypatch)
    for seed in range(seeds):
        with closing(History(seed, ground)) as history:
            history.play()
            if judge(history):
                return seed
    return None


@pytest.mark.parametrize("rule", PLAIN)
def test_a_broken_rule_is_seen(rule: str, ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    assert first_bad(PLAIN[rule], SOON, ground, monkeypatch) is not None


@pytest.mark.soak
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("rule", SUBTLE)
def test_a_subtle_rule_that_is_broken_is_seen(rule: str, ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    assert first_bad(SUBTLE[rule], LATE, ground, monkeypatch) is not None


def test_a_seed_is_always_the_same_history(ground: Ground) -> None:
    def told(seed: int) -> object:
        with closing(History(seed, ground)) as history:
            history.play()
            return history.world.history, history.server.rows("SELECT * FROM moves"), history.world.turns

    assert told(3) == told(3) != told(4)


def test_what_can_go_wrong_does(ground: Ground) -> None:
    seen: Counter[str] = Counter()
    for seed in range(AT_ONCE):
        with closing(History(seed, ground)) as history:
            history.play()
            seen.update(history.seen())
    assert set(seen) >= {
        "success", "error", "cancelled", "timeout", "second attempt", "third attempt", "lost call",
        "leases_given_up", "lease_lost", "lease_renewal_failed", "write_retried", "replayed", "refused", "given up",
    }, seen  # fmt: skip
