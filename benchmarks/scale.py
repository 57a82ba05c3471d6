"""How much is measured: the full run, and the quick one that only shows that everything works."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """``slice_seconds``: how long one side runs before it is the other's turn; a round is one turn of each."""

    rounds: int
    slice_seconds: float
    first_tokens: int
    paced_rounds: int
    paced_streams: int
    memory_runs: int
    counted_runs: int
    admissions: int
    journalled_runs: int
    starts: int


FULL = Scale(
    rounds=10,
    slice_seconds=1.0,
    first_tokens=1_000,
    paced_rounds=6,
    paced_streams=200,
    memory_runs=5_000,
    counted_runs=200,
    admissions=2_000,
    journalled_runs=150,
    starts=5,
)
QUICK = Scale(
    rounds=1,
    slice_seconds=0.5,
    first_tokens=60,
    paced_rounds=1,
    paced_streams=200,
    memory_runs=500,
    counted_runs=20,
    admissions=200,
    journalled_runs=15,
    starts=1,
)
