"""The data folder belongs to one server, and its secrets to its user."""

import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from roadworthy.domain.errors import ConfigError
from roadworthy.storage.folder import open_folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_folder_is_private(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "one" / "two")
    assert mode(folder.path) == 0o700
    assert folder.problem() is None
    assert list(folder.path.iterdir()) == []


def test_a_second_server_is_told_what_to_do(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from roadworthy.storage.folder import open_folder\n"
        "with open_folder(Path(sys.argv[1])).locked():\n"
        "    print('locked', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    folder = open_folder(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(ConfigError) as raised, folder.locked():
            pytest.fail("two servers own the folder")
        for part in (str(tmp_path), str(other.pid), "ROADWORTHY_DATA_DIR"):
            assert part in raised.value.message
        other.kill()
    with folder.locked():
        assert (tmp_path / "lock").exists()
    with folder.locked():
        assert mode(tmp_path / "lock") == 0o600


def test_the_pepper_is_made_once_and_private(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        peppers = {made.result() for made in [pool.submit(folder.pepper) for _ in range(40)]}
    assert len(peppers) == 1
    assert mode(tmp_path / "key_pepper") == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["key_pepper"]


def test_a_damaged_pepper_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "key_pepper").write_bytes(b"short")
    with pytest.raises(ConfigError, match="damaged"):
        open_folder(tmp_path).pepper()


def test_a_place_that_cannot_be_a_folder_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for path in (file, file / "inside"):
        with pytest.raises(ConfigError) as raised:
            open_folder(path)
        assert str(path) in raised.value.message
