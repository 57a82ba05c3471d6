"""One history: a schedule drawn from a seed, played until nothing is left to do, and then judged."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.domain.event import Event
from roadworthy.domain.ids import RunId
from roadworthy.domain.run import Run
from roadworthy.storage import statements as sql
from roadworthy.storage.rows import run_from
from tests.fault.simulation.clients import Clients
from tests.fault.simulation.database import LeasedText, Server
from tests.fault.simulation.process import Process
from tests.fault.simulation.provider import Provider
from tests.fault.simulation.world import World

REPLICAS = 3
# Units of work that are worth an ambush, by what their names contain.
UNITS = ("_Ending", "_Ending", "claim", "Acceptance", "_Write", "partial", "request_cancel")
_SECONDS = 25.0
# Time for what is under way when all is well again: deadlines of runs are sooner.
_QUIET = 400.0
# Time for what tidies up afterwards: reservations of dead attempts are swept after a minute and a half.
_TIDY = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What histories begin with."""

    image: bytes
    text: LeasedText


class History:
    """See the module. ``play`` once, ``close`` always."""

    def __init__(self, seed: int, ground: Ground) -> None:
        self.world = World(seed)
        self.server = Server(self.world, ground.image, ground.text)
        self.fleet: list[Process] = []
        self.provider = Provider(self.world)
        self.clients = Clients(self.world, self.fleet)
        self.healing = False
        # What is not as it should be while the history is played.
        self.faults: list[str] = []
        # Units that something happened to on their way.
        self.struck: list[str] = []
        # Every run's events as each process that has outlived it all tells them, by process and run.
        self.told: dict[str, dict[RunId, Sequence[Event]]] = {}

    def play(self) -> None:
        """Everything that can go wrong, then nothing any more, until all is done."""
        chance = self.world.chance
        for _ in range(REPLICAS):
            self._boot()
        self._every(1.0, self._supervise)
        acts: list[tuple[Callable[[], None], int]] = [
            (self.clients.order, 14),
            (self.clients.cancel, 2),
            (self._fail_provider, 1),
            (self._to_some(self._kill), 1),
            (self._to_some(self._stop), 1),
            (self._to_some(self._cut), 1),
            (self._to_some(self._drain), 2),
            (self._to_some(self._ambush), 5),
        ]
        for _ in range(chance.randint(8, 30)):
            act = chance.choices([one for one, _ in acts], [weight for _, weight in acts])[0]
            self.world.after(chance.uniform(0.5, _SECONDS), act)
        self.world.run(_SECONDS)
        self._heal()
        if not self.world.run(_SECONDS + _QUIET, enough=self._all_done):
            self.faults.append(f"not everything has ended: {self._unfinished()}")
        self.world.run(self.world.now + _TIDY, enough=self._tidy)
        self._reread()

    def close(self) -> None:
        """Let go of everything."""
        for process in self.fleet:
            process.bury()
        self.server.close()

    # --- what happens -------------------------------------------------------------------------------------------------

    def _boot(self) -> None:
        process = Process(
            self.world, self.server, self.provider, self.fleet, len(self.fleet) + 1, self.world.chance.randint(1, 3)
        )
        self.world.tell(f"start {process.name}")

    def _to_some(self, act: Callable[[Process], None]) -> Callable[[], None]:
        def do() -> None:
            living = [one for one in self.fleet if one.alive and not one.draining]
            if living:
                act(self.world.chance.choice(living))

        return do

    def _kill(self, process: Process) -> None:
        if process.alive and not process.draining:
            self.world.tell(f"kill {process.name}")
            process.kill()
            self.world.after(self.world.chance.uniform(0.1, 10), self._boot)

    def _stop(self, process: Process) -> None:
        length = self.world.chance.choice([0.5, 3, 7, 12, 25])
        if process.alive and not process.stopped and not self.healing:
            self.world.tell(f"stop {process.name} for {length} s")
            process.stop()
            self.world.after(length, lambda: self._go_on(process))

    def _go_on(self, process: Process) -> None:
        if process.alive and process.stopped:
            self.world.tell(f"continue {process.name}")
            process.go_on()

    def _cut(self, process: Process) -> None:
        length = self.world.chance.choice([0.05, 0.5, 3, 7, 12, 25])
        if process.alive and not process.link.cut and not self.healing:
            self.world.tell(f"cut {process.name} off for {length} s")
            process.cut()
            self.world.after(length, lambda: self._join(process))

    def _join(self, process: Process) -> None:
        if process.link.cut:
            self.world.tell(f"join {process.name}")
            process.join()

    def _drain(self, process: Process) -> None:
        if process.stopped or process.draining or process.parts is None:
            return
        self.world.tell(f"drain {process.name}")
        if self.world.chance.random() < 0.5:
            self._lie_in_wait(process, "_give_back", self._stop)
        process.drain()
        # Whoever waits for its end is not patient for ever.
        self.world.after(20, process.kill)
        self.world.after(self.world.chance.uniform(0.1, 10), self._boot)

    def _rush(self, process: Process) -> None:
        """Two more runs for a thread that is busy at a process."""
        rows = self.server.rows(
            "SELECT tenant, thread_id FROM runs WHERE status = 'running' AND worker = ? LIMIT 1", process.name
        )
        for row in rows * 2:
            rush = partial(self.clients.rush, row["tenant"], row["thread_id"])
            self.world.after(self.world.chance.uniform(0, 0.05), rush)

    def _ambush(self, process: Process) -> None:
        """Something happens at the worst moment: while a certain unit of work is on its way."""
        chance = self.world.chance
        what = chance.choice([self._kill, self._stop, self._stop, self._cut, self._rush])
        self._lie_in_wait(process, chance.choice(UNITS), what)

    def _lie_in_wait(self, process: Process, name: str, what: Callable[[Process], None]) -> None:
        self.world.tell(f"lie in wait for {name} of {process.name}")

        def strike() -> None:
            if not self.healing:
                self.world.tell(f"{name} of {process.name} is on its way")
                self.struck.append(name)
                what(process)

        process.link.ambush = name, strike

    def _fail_provider(self) -> None:
        self.world.tell("the provider fails")
        self.provider.down = True

        def recover() -> None:
            self.provider.down = False

        self.world.after(self.world.chance.uniform(0.5, 8), recover)

    def _heal(self) -> None:
        """Nothing new goes wrong; what was stopped or cut off comes back by itself."""
        self.world.tell("nothing more goes wrong")
        self.healing = True
        for process in self.fleet:
            process.link.ambush = None
        if not any(one.alive and not one.draining for one in self.fleet):
            self._boot()

    def _every(self, seconds: float, action: Callable[[], None]) -> None:
        def again() -> None:
            action()
            self.world.after(seconds, again)

        self.world.after(seconds, again)

    def _supervise(self) -> None:
        """What the supervisor of processes and the clients' libraries do."""
        for process in self.fleet:
            if not process.alive or not process.life.done():
                continue
            error = None if process.life.cancelled() else process.life.exception()
            if process.parts is None and isinstance(error, StorageUnavailable):
                self.world.tell(f"{process.name} did not start")
            else:
                self.faults.append(f"{process.name} has ended by itself: {error!r}")
            process.kill()
            self._boot()
        self.clients.connect()

    def _reread(self) -> None:
        runs = self.runs()
        readers = [
            process.start(_read_all(process, runs, self.told.setdefault(process.name, {})))
            for process in self.fleet
            if process.serves
        ]
        if not self.world.run(self.world.now + _TIDY, enough=lambda: all(reader.done() for reader in readers)):
            self.faults.append("not everything could be read again")
        self.faults += [repr(error) for one in readers if one.done() and (error := one.exception()) is not None]

    def runs(self) -> Sequence[Run]:
        """All of them, as they are stored."""
        rows = self.server.read(lambda tx: tx.all(sql.RUNS_OF_ALL, status=None, before=10**9, limit=10**6))
        return [run_from(row) for row in rows]

    def seen(self) -> Counter[str]:
        """What has happened in it, by kind."""
        attempts = ("", "first", "second", "third")
        found = Counter(run.status.value for run in self.runs())
        found.update(f"{attempts[min(run.attempt, 3)]} attempt" for run in self.runs() if run.attempt)
        found.update(note for process in self.fleet for note in process.witness.notes)
        found.update(self.struck)
        found.update(f"{row['outcome']} call" for row in self.server.rows("SELECT outcome FROM model_calls"))
        for order in self.clients.orders:
            found["replayed"] += len(order.answers) > 1
            found["refused"] += order.refused is not None
            found["given up"] += order.given_up
        return +found

    # --- whether it is over -------------------------------------------------------------------------------------------

    def _unfinished(self) -> list[object]:
        open_orders: list[object] = [order for order in self.clients.orders if order.open]
        followers: list[object] = [one.run.run_id for one in self.clients.followers if not one.ended]
        rows = self.server.rows("SELECT run_id, status, attempt FROM runs WHERE status IN ('pending', 'running')")
        return [*open_orders, *rows, *followers]

    def _all_done(self) -> bool:
        return not self._unfinished()

    def _tidy(self) -> bool:
        # The next one to start, to come back or to be killed would disturb whoever looks.
        calm = not any(one.stopped or one.link.cut or one.draining for one in self.fleet if one.alive)
        return calm and not self.leftovers()

    def leftovers(self) -> list[str]:
        """I7: what should not be there when nothing happens any more."""
        found = [f"reservation {row}" for row in self.server.rows("SELECT run_id, call_id, attempt FROM reservations")]
        found += [
            f"thread {row}"
            for row in self.server.rows(
                "SELECT thread_id, active_run, pending FROM threads WHERE active_run IS NOT NULL OR pending != 0"
            )
        ]
        found += [f"period {row}" for row in self.server.rows("SELECT * FROM budget_periods WHERE reserved_nanos != 0")]
        for process in self.fleet:
            if process.alive and not process.draining:
                found += _left_in(process)
        return found


async def _read_all(process: Process, runs: Sequence[Run], told: dict[RunId, Sequence[Event]]) -> None:
    assert process.parts is not None
    for run in runs:
        async with aclosing(process.parts.log.follow(run, after=None)) as batches:
            told[run.run_id] = [event async for batch in batches for event in batch]


def _left_in(process: Process) -> list[str]:
    parts = process.parts
    if parts is None:
        return [f"{process.name} is not up"]
    load = parts.worker.load()
    counts = {
        "slots": load.held,
        "stuck": load.stuck,
        "waiting": load.waiting,
        "executing": len(parts.worker.executing()),
        "leases": len(parts.keeper.known),
        "logs": parts.log.held,
        "tasks": process.tasks - process.baseline,
    }
    left = {name: count for name, count in counts.items() if count}
    return [f"{process.name} {left}"] if left else []
