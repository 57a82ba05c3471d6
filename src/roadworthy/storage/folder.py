"""The data folder of a single-machine server: its files, and the lock that makes one server its owner.

``bootstrap.py`` opens and locks it; the CLI opens it beside a running server.
"""

import fcntl
import os
import secrets
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from roadworthy.domain.errors import ConfigError


@dataclass(frozen=True, slots=True)
class DataFolder:
    """Where things are. The agent runtime keeps its own files beside the ``database``."""

    path: Path

    @property
    def database(self) -> Path:
        """Runs, threads, keys, events."""
        return self.path / "roadworthy.db"

    @contextmanager
    def locked(self) -> Generator[None]:
        """Own the folder. The lock ends with the process, however that ends.

        Raises:
            ConfigError: another server owns it.
        """
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"another server uses the data folder {self.path}{_holder(descriptor)}: "
                    "stop it, or give this one a folder of its own with ROADWORTHY_DATA_DIR"
                ) from None
            os.truncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
            yield
        finally:
            os.close(descriptor)

    def pepper(self) -> bytes:
        """The secret that is mixed into key digests; made on the first call.

        Raises:
            ConfigError: the file cannot be read or made, or is damaged.
        """
        file = self.path / "key_pepper"
        try:
            if not file.exists():
                _create_whole(file, secrets.token_hex(32).encode())
            pepper = file.read_bytes().strip()
        except OSError as error:
            raise ConfigError(f"the key pepper {file} cannot be read: {error.strerror}") from error
        if len(pepper) < 32:  # noqa: PLR2004 -- half of what is written is damage enough
            raise ConfigError(f"the key pepper {file} is damaged: restore it, or delete it and make new keys")
        return pepper

    def problem(self) -> str | None:
        """None when files can be written here; else what is wrong."""
        try:
            descriptor, name = tempfile.mkstemp(prefix=".probe-", dir=self.path)
            try:
                os.write(descriptor, b"probe")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
                Path(name).unlink()
        except OSError as error:
            return f"the data folder {self.path} cannot be written: {error.strerror}"
        return None


def open_folder(path: Path) -> DataFolder:
    """The folder at ``path``, made with mode 0700 when it is not there.

    Raises:
        ConfigError: it cannot be made or written.
    """
    folder = DataFolder(path.absolute())
    try:
        folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the data folder {folder.path} cannot be made: {error.strerror}") from error
    problem = folder.problem()
    if problem is not None:
        raise ConfigError(problem)
    return folder


def _holder(descriptor: int) -> str:
    text = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
    return f" (process {text})" if text.isdigit() else ""


def _create_whole(file: Path, content: bytes) -> None:
    """Make a file that is never seen half written; when two processes try, one wins and both read the same."""
    descriptor, name = tempfile.mkstemp(prefix=".new-", dir=file.parent)  # mode 0600
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
        os.link(name, file)
    except FileExistsError:
        return
    finally:
        os.close(descriptor)
        Path(name).unlink()
