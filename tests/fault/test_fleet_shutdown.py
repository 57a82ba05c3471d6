"""SIGTERM to replicas under load: their runs finish elsewhere, their readers are told where (catalogue 19, 20)."""

import asyncio
import signal
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import httpx
import pytest

from tests.support.fleet import Fleet
from tests.support.provider.script import Hold, Rule, Turn
from tests.support.transcript import Transcript, follow, stream_into

FINISHED = 60


async def test_sigterm_to_a_replica_hands_its_runs_to_its_peers_and_its_readers_over(fleet: Fleet) -> None:
    """Three runs are between two steps, three in a model call that does not end; three of other replicas are too."""
    cut = (Turn(text="a b c d", hold=Hold(at=2, gate="never")),) * 3 + (Turn(text="again"),) * 3
    kept = (Turn(text="e f g h", hold=Hold(at=2, gate="kept")),) * 3
    fleet.provider.script(rules=(Rule(when="cut", turns=cut), Rule(when="kept", turns=kept)))
    await fleet.begin(env={"ROADWORTHY_DRAIN_TIMEOUT": "2"})
    stepping = [f'tool: slow_note {{"text": "s{number}"}}\nsay: done' for number in range(3)]
    async with fleet.client(0) as leaving, fleet.client(1) as one, fleet.client(2) as two, asyncio.TaskGroup() as group:
        readers = [
            group.create_task(_read(client, {"message": text}))
            for client, texts in ((leaving, [*stepping, *["cut"] * 3]), (one, ["kept"] * 2), (two, ["kept"]))
            for text in texts
        ]
        await fleet.provider.wait_for(lambda calls: sum(call.held for call in calls) == 6, 30)
        await fleet.effect("slow_note", phase="begin", count=3)
        async with fleet.client(0) as probe:
            fleet.replicas[0].signal(signal.SIGTERM)
            await fleet.not_ready(probe)
            refused = await probe.post("/agent/invoke", json={"message": "say: no"})
        for number in range(3):
            fleet.open_gate(f"s{number}")
        assert await fleet.exited(0) == 0
        assert (refused.status_code, refused.json()["code"]) == (503, "draining")
        assert "retry-after" in refused.headers
        for _ in range(3):
            fleet.provider.release("kept")
    transcripts = [reader.result() for reader in readers]
    # A run that a peer has finished before the last one was handed over is told to its end where its reader is.
    assert {one.frames[-1]["type"] for one in transcripts[:3]} <= {"handover", "done"}
    assert [one.frames[-1]["type"] for one in transcripts[3:]] == ["handover"] * 3 + ["done"] * 3
    async with fleet.client() as client, asyncio.timeout(FINISHED):
        for transcript in transcripts[:6]:
            if transcript.done is None:
                transcript.frames.pop()
                await follow(client, transcript)
        runs = [await fleet.final(client, transcript.run_id) for transcript in transcripts]
    assert [run["response"] for run in runs] == ["done"] * 3 + ["again"] * 3 + ["e f g h"] * 3
    assert [transcript.text() for transcript in transcripts] == [run["response"] for run in runs]
    assert [run["attempt"] for run in runs] == [2] * 6 + [1] * 3
    assert fleet.effects.count("slow_note") == 3
    # Those between two steps cost nothing; of those in a call, that one is bought again.
    assert len(fleet.provider.ledger) == 3 * 2 + 3 * 2 + 3
    await fleet.settled()
    fleet.check(transcripts=transcripts)


async def test_a_second_sigterm_ends_at_once_and_a_peer_takes_over(fleet: Fleet) -> None:
    await fleet.begin()
    transcript = Transcript()
    body = {"message": 'tool: slow_note {"text": "a"}\nsay: done', "thread_id": "t", "on_disconnect": "continue"}
    async with fleet.client(1) as client:
        async with fleet.client(0) as leaving, asyncio.TaskGroup() as group:
            group.create_task(_twice(fleet))
            with pytest.raises(httpx.TransportError):
                await stream_into(leaving, body, transcript)
        assert await fleet.exited(0) == 128 + signal.SIGTERM
        fleet.open_gate("a")
        async with asyncio.timeout(FINISHED):
            await follow(client, transcript)
        run = await fleet.final(client, transcript.run_id)
    assert (run["status"], run["attempt"], transcript.text()) == ("success", 2, "done")
    assert fleet.effects.count("slow_note") == 1
    assert len(fleet.provider.ledger) == 2
    await fleet.settled()
    fleet.check(transcripts=[transcript])


@pytest.mark.timeout(180)
async def test_a_rolling_restart_under_load_loses_nothing(fleet: Fleet) -> None:
    """Clients repeat, with the same key, what the leaving replica refuses or has no time to take, and nothing else."""
    await fleet.begin(look_every=0.05, env={"ROADWORTHY_DRAIN_TIMEOUT": "5"})
    load = Load(fleet)
    async with asyncio.TaskGroup() as group:
        clients = [group.create_task(load.send(f"c{number}")) for number in range(6)]
        for replica in range(3):
            await load.more(12)
            await fleet.restart(replica, gently=True)
        await load.more(12)
        load.enough = True
    assert all(client.done() for client in clients)
    assert not load.failed, load.failed
    assert set(load.answers) == {f"c{number}" for number in range(6)}
    await fleet.settled(FINISHED)
    runs = fleet.rows("SELECT status, attempt FROM runs")
    assert len(runs) == load.sent
    assert {run["status"] for run in runs} == {"success"}
    # No replica died, so nothing had to be bought twice but what the end of the grace cut off, and that was nothing.
    assert len(fleet.provider.ledger) == 2 * load.sent
    assert fleet.effects.count("note") == load.sent
    fleet.check()
    print(f"{load.sent} requests, {sum(load.repeated.values())} repeated: {dict(load.repeated)}")


@dataclass(slots=True)
class Load:
    """Clients of the balancer, each with one request after the other. ``repeated``: why they had to be, by code."""

    fleet: Fleet
    sent: int = 0
    enough: bool = False
    failed: list[str] = field(default_factory=list[str])
    repeated: Counter[str] = field(default_factory=Counter[str])
    answers: Counter[str] = field(default_factory=Counter[str])

    async def more(self, requests: int) -> None:
        """Until so many more were answered."""
        wanted = sum(self.answers.values()) + requests
        await self.fleet.until(lambda: bool(self.failed) or sum(self.answers.values()) >= wanted, FINISHED)

    async def send(self, name: str) -> None:
        """Be a client, until it is enough."""
        async with self.fleet.client() as client:
            for number in count():
                if self.enough or self.failed:
                    return
                text = f'pace: 10\ntool: note {{"text": "{name}-{number}"}}\nsay: {name} has said {number} by now'
                body = {"message": text, "thread_id": name}
                self.sent += 1
                answer = await self._ask(client, body, f"{name}-{number}")
                if answer is None or answer.json().get("response") != f"{name} has said {number} by now":
                    self.failed.append("nobody answered" if answer is None else answer.text)
                self.answers[name] += 1

    async def _ask(self, client: httpx.AsyncClient, body: dict[str, Any], key: str) -> httpx.Response | None:
        for _ in range(20):
            try:
                answer = await client.post("/agent/invoke", json=body, headers={"Idempotency-Key": key})
            except httpx.TransportError as error:
                # The balancer sends requests for as long as it has not looked: the last ones meet a closed door.
                self.repeated[type(error).__name__] += 1
                continue
            if answer.status_code != 503 or answer.json()["code"] != "draining":
                return answer
            self.repeated[answer.json()["detail"]] += 1
        return None


async def _read(client: httpx.AsyncClient, body: dict[str, Any]) -> Transcript:
    transcript = Transcript()
    await stream_into(client, body, transcript)
    return transcript


async def _twice(fleet: Fleet) -> None:
    await fleet.effect("slow_note", phase="begin")
    await fleet.until(lambda: bool(fleet.rows("SELECT 1 FROM model_calls")))
    fleet.replicas[0].signal(signal.SIGTERM)
    async with fleet.client(0) as probe:
        await fleet.not_ready(probe)
    fleet.replicas[0].signal(signal.SIGTERM)
