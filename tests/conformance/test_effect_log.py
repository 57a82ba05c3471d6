"""The tool-effect log is a witness that survives the process that wrote it."""

import subprocess
import sys
from pathlib import Path

from tests.support.effects import EffectLog

_ROOT = Path(__file__).parents[2]
_WRITE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from tests.support.effects import EffectLog
log = EffectLog(Path(sys.argv[1]))
log.record("pay", "t1:c1", "begin")
log.record("pay", "t1:c1")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_recorded_is_there(tmp_path: Path) -> None:
    path = tmp_path / "effects.jsonl"
    log = EffectLog(path)
    assert log.read() == ()

    dead = subprocess.run([sys.executable, "-c", _WRITE_AND_DIE, str(path)], cwd=_ROOT, check=False)
    log.record("pay", "t1:c2")

    assert dead.returncode == -9
    assert log.count("pay") == 2
    assert log.count("pay", key="t1:c1") == 1
    assert log.count("pay", phase="begin") == 1
    assert log.count("refund") == 0
    assert len({effect.pid for effect in log.read()}) == 2
