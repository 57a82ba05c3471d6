"""What every test here opens its runtime with."""

from pathlib import Path

import pytest

from tests.conformance.runtime.playing import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(folder=tmp_path)
