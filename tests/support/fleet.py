"""A fleet under test: server processes on one Postgres, behind a load balancer of our own, with their witnesses.

    with postgres_server() as postgres, valkey_server() as valkey, ProviderProcess() as provider, Preloaded() as forks:
        make = partial(PreloadedServer, forks)          # or leave it out: each start then takes the imports' seconds
        async with Fleet(folder, provider, postgres.create(), redis_url=valkey.url, make_server=make) as fleet:
            await fleet.begin(roles=(SERVE, SERVE, API))  # three that do everything, unless told otherwise
            async with fleet.client() as client:        # through the balancer, a new connection for each request
                answer = await client.post("/agent/invoke", json={"message": "say: hi"})
            async with fleet.client(2) as client: ...   # to one replica
            await fleet.kill(await fleet.executor(run_id))  # by -9; then fleet.start(i), or fleet.restart(i)
            fleet.hold(1); fleet.go_on(1)               # SIGSTOP, SIGCONT
            await fleet.stop(2)                         # SIGTERM; the exit code
            fleet.rows("SELECT * FROM runs WHERE status = ?", "running")
            await fleet.settled()                       # every run final, nothing held: then
            fleet.check(transcripts=[...], in_flight=1) # I1 to I5, for all replicas together

The fixture ``fleet`` of ``tests/fault/conftest.py`` has all of that, with a fresh database for each test. A ``worker``
has no API: the balancer passes over it. A replica keeps its port, its folder and its log (``fleet.replicas[i]``) over
restarts, and takes a new worker's name each time. Faults of the parts beneath are those of their own rigs: let
``env={"ROADWORTHY_REDIS_URL": …}``, or of one replica ``replica_env={1: {…}}``, name the port of a ``FaultProxy``.
"""

import asyncio
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import httpx

from tests.support.invariants import check_invariants, log_records
from tests.support.provider.process import ProviderProcess
from tests.support.rig import FINAL, Witnesses
from tests.support.round_robin import RoundRobin
from tests.support.server import ADMIN_KEY, ServerProcess, postgres_rows
from tests.support.transcript import Transcript

Role = tuple[str, ...]

SERVE: Final[Role] = ("serve",)
API: Final[Role] = ("serve", "--no-worker")
WORKER: Final[Role] = ("worker",)
_PEPPER = "the-pepper-of-the-test"


class Fleet(Witnesses):
    """See the module. Nothing runs before ``begin``."""

    def __init__(
        self,
        folder: Path,
        provider: ProviderProcess,
        database_url: str,
        *,
        redis_url: str | None = None,
        make_server: Callable[..., ServerProcess] = ServerProcess,
    ) -> None:
        super().__init__(folder, provider)
        self.database_url = database_url
        self.redis_url = redis_url
        self.replicas: list[ServerProcess] = []
        self.roles: Sequence[Role] = ()
        self._make_server = make_server
        self._proxy: RoundRobin | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._proxy is not None:
            await self._proxy.__aexit__(None, None, None)
        for replica in self.replicas:
            await replica.kill()

    async def begin(
        self,
        agent: str = "claude.py:graph",
        *,
        roles: Sequence[Role] = (SERVE, SERVE, SERVE),
        env: Mapping[str, str] | None = None,
        replica_env: Mapping[int, Mapping[str, str]] | None = None,
        crash_at: str | None = None,
        look_every: float | None = None,
    ) -> None:
        """Start one process for each role, all at once, until all are ready, and the balancer. ``crash_at``: see
        ``Witnesses.agent``; it happens once in the fleet. ``look_every``: see ``RoundRobin``.
        """
        target, environment = self.agent(agent, crash_at)
        environment |= {
            "ROADWORTHY_DATABASE_URL": self.database_url,
            "ROADWORTHY_KEY_PEPPER": _PEPPER,
            "ROADWORTHY_AUTO_MIGRATE": "true",
            **({} if self.redis_url is None else {"ROADWORTHY_REDIS_URL": self.redis_url}),
            **(env or {}),
        }
        self.roles = roles
        for number, (command, *args) in enumerate(roles):
            own = {**environment, **(replica_env or {}).get(number, {})}
            folder = self.folder / f"replica-{number}"
            self.replicas.append(self._make_server(folder, target=target, env=own, args=args, command=command))
        async with asyncio.TaskGroup() as group:
            for number in range(len(roles)):
                group.create_task(self.start(number))
        proxy = RoundRobin([self.replicas[number].port for number in self.apis], look_every=look_every)
        self._proxy = await proxy.__aenter__()

    @property
    def apis(self) -> Sequence[int]:
        """The replicas that clients can talk to."""
        return [number for number, role in enumerate(self.roles) if role != WORKER]

    @property
    def proxy(self) -> RoundRobin:
        """The balancer."""
        assert self._proxy is not None, "call begin() first"
        return self._proxy

    @property
    def logs(self) -> str:
        """Everything that any process of any replica wrote."""
        return "\n".join(replica.logs for replica in self.replicas)

    def rows(self, sql: str, /, *parameters: object) -> list[dict[str, Any]]:
        """What a query finds in the fleet's tables. ``?`` is a parameter."""
        return postgres_rows(self.database_url, sql, *parameters)

    def client(self, replica: int | None = None, *, key: str = ADMIN_KEY) -> httpx.AsyncClient:
        """An HTTP client of one replica, or of the balancer, where each request takes a new connection and so the next
        replica.
        """
        return httpx.AsyncClient(
            base_url=self.proxy.url if replica is None else self.replicas[replica].url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=60,
            limits=httpx.Limits(max_keepalive_connections=0 if replica is None else 20),
        )

    async def start(self, replica: int, *, wait: bool = True) -> None:
        """Start a replica, on its old port; by default until it is ready for traffic."""
        one = self.replicas[replica]
        await one.start(wait=wait)
        if wait:
            async with httpx.AsyncClient(base_url=one.url) as client:
                await self.ready(client, 30)

    async def kill(self, replica: int) -> None:
        """Kill -9."""
        await self.replicas[replica].kill()

    async def stop(self, replica: int, seconds: float = 40) -> int:
        """SIGTERM, and wait for the exit code."""
        self.replicas[replica].signal(signal.SIGTERM)
        return await self.replicas[replica].exited(seconds)

    async def restart(self, replica: int, *, gently: bool = False) -> None:
        """Kill -9, or with ``gently`` SIGTERM, then start again."""
        await (self.stop(replica) if gently else self.kill(replica))
        await self.start(replica)

    def hold(self, replica: int) -> None:
        """SIGSTOP: connections stay and are accepted by the kernel, and nobody answers."""
        self.replicas[replica].signal(signal.SIGSTOP)

    def go_on(self, replica: int) -> None:
        """SIGCONT."""
        self.replicas[replica].signal(signal.SIGCONT)

    def names(self, replica: int) -> Sequence[str]:
        """The worker's names that a replica has had, the one of its last start at the end."""
        records = log_records(self.replicas[replica])
        return [record["worker"] for record in records if record.get("event") in {"serving", "working"}]

    async def executor(self, run_id: str, *, attempt: int = 1, seconds: float = 30) -> int:
        """The replica that executes a run, once its attempt, or a later one, is under way."""
        async with asyncio.timeout(seconds):
            while True:
                sql = "SELECT worker FROM runs WHERE run_id = ? AND status = 'running' AND attempt >= ?"
                for row in self.rows(sql, run_id, attempt):
                    for number in range(len(self.replicas)):
                        if row["worker"] in self.names(number):
                            return number
                await asyncio.sleep(0.02)

    def others(self, *replicas: int) -> Sequence[int]:
        """The replicas with an API that are none of these."""
        return [number for number in self.apis if number not in replicas]

    async def exited(self, replica: int, seconds: float = 40) -> int:
        """The exit code of a replica that ends by itself."""
        return await self.replicas[replica].exited(seconds)

    async def crashed(self, seconds: float = 40) -> int:
        """The replica that has killed itself at ``crash_at``, once it is dead."""
        await self.until(lambda: any(map(self._is_dead, range(len(self.replicas)))), seconds)
        (dead,) = filter(self._is_dead, range(len(self.replicas)))
        return dead

    async def one_run(self, seconds: float = 20) -> dict[str, Any]:
        """The row of the one run there is."""
        await self.until(lambda: len(self.rows("SELECT 1 FROM runs")) == 1, seconds)
        return self.rows("SELECT * FROM runs")[0]

    async def settled(self, seconds: float = 40) -> None:
        """Until every run is final, and all that was held for its calls is settled."""
        unfinished = "SELECT run_id FROM runs WHERE status IN ('pending', 'running')"
        await self.until(lambda: not self.rows(unfinished) and not self.rows("SELECT * FROM reservations"), seconds)

    def check(self, *, transcripts: Iterable[Transcript] = (), in_flight: int = 0) -> None:
        """Assert what must hold on every history of a fleet, of which every run has ended. ``in_flight``: model calls
        that died with replicas.
        """
        check_invariants(self, self.provider.ledger, transcripts=transcripts, in_flight=in_flight)
        check_threads_are_free(self)
        check_attempts(self)

    def _is_dead(self, replica: int) -> bool:
        return self.replicas[replica].ended


def check_threads_are_free(fleet: Fleet) -> None:
    """I7: a run that has ended keeps neither its thread nor a place in the line."""
    taken = fleet.rows("SELECT * FROM threads WHERE active_run IS NOT NULL OR pending != 0")
    assert not taken, taken


def check_attempts(fleet: Fleet) -> None:
    """I1: the log has no event of an attempt that there never was, and every final run has its end on record."""
    for run in fleet.rows("SELECT seq, run_id, status, attempt, result, finished_at FROM runs"):
        assert run["status"] in FINAL, run
        assert run["finished_at"] is not None, run
        assert run["result"] is not None, run
        (last,) = fleet.rows("SELECT coalesce(max(attempt), 0) AS attempt FROM events WHERE run_seq = ?", run["seq"])
        assert last["attempt"] <= run["attempt"], (last, run)
