import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from roadworthy.domain.errors import QueueFull, StorageUnavailable, ThreadBusy
from roadworthy.domain.run import DisconnectPolicy, Durability, MultitaskStrategy
from roadworthy.http.deps import HttpLimits
from roadworthy.protocols.plain import wire
from tests.support.web.calls import calling
from tests.support.web.fakes import Fakes, RunResult, RunStatus, failed, make_run

ASK = {"message": "hi"}


@pytest.fixture
def fakes() -> Fakes:
    fakes = Fakes()
    fakes.runs.answer = (RunStatus.SUCCESS, RunResult(response="ho"))
    return fakes


def types_of(stream: str) -> list[str]:
    return [line.split('"type":"')[1].split('"')[0] for line in stream.splitlines() if line.startswith("data:")]


async def test_invoke_returns_the_run(fakes: Fakes) -> None:
    async with calling(fakes) as client:
        answer = await client.post("/agent/invoke", json=ASK, headers={"X-Request-Id": "r9"})
    run = wire.Run.model_validate_json(answer.content)
    assert (answer.status_code, run.status, run.response) == (200, "success", "ho")
    (command,) = fakes.runs.commands
    assert (command.message, command.has_input, command.request_id) == ("hi", False, "r9")


async def test_every_field_of_the_body_reaches_the_service(fakes: Fakes) -> None:
    body = {
        "input": {"n": 1},
        "thread_id": "t1",
        "agent": "demo",
        "context": {"lang": "de"},
        "metadata": {"ticket": 5},
        "on_disconnect": "continue",
        "multitask_strategy": "reject",
        "durability": "sync",
    }
    async with calling(fakes) as client:
        assert (await client.post("/agent/invoke", json=body)).status_code == 200
    (command,) = fakes.runs.commands
    assert (command.input, command.has_input, command.message) == ({"n": 1}, True, None)
    assert (command.agent, command.thread_id) == ("demo", "t1")
    assert (command.context, command.metadata) == ({"lang": "de"}, {"ticket": 5})
    assert command.on_disconnect is DisconnectPolicy.CONTINUE
    assert command.multitask_strategy is MultitaskStrategy.REJECT
    assert command.durability is Durability.SYNC


@pytest.mark.parametrize(("limit", "length", "status"), [(10, 10, 200), (10, 11, 422), (5000, 5000, 200)])
async def test_the_limit_of_a_message_is_the_one_of_this_server(
    fakes: Fakes, limit: int, length: int, status: int
) -> None:
    async with calling(fakes, limits=HttpLimits(message_max=limit)) as client:
        answer = await client.post("/agent/invoke", json={"message": "x" * length})
    assert answer.status_code == status
    assert len(fakes.runs.commands) == (status == 200)


async def test_what_was_given_as_metadata_can_be_read_back(fakes: Fakes) -> None:
    given = {"ticket": 5, "tags": ["a"]}
    async with calling(fakes) as client:
        made = (await client.post("/agent/invoke", json={"message": "hi", "metadata": given})).json()
        seen = (await client.get(f"/agent/runs/{made['run_id']}")).json()
        other = (await client.post("/agent/invoke", json=ASK)).json()
    assert [run["metadata"] for run in (made, seen, other)] == [given, given, {}]


async def test_an_input_of_null_is_an_input(fakes: Fakes) -> None:
    async with calling(fakes) as client:
        assert (await client.post("/agent/invoke", json={"input": None})).status_code == 200
    assert fakes.runs.commands[0].has_input is True


async def test_stream_opens_with_the_run_and_closes_with_done(fakes: Fakes) -> None:
    async with calling(fakes) as client:
        answer = await client.post("/agent/stream", json=ASK)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert types_of(answer.text) == ["run", "done"]


async def test_a_failed_run_streams_its_error_and_is_still_a_stream(fakes: Fakes) -> None:
    fakes.runs.answer = (RunStatus.ERROR, failed("agent_failed"))
    async with calling(fakes) as client:
        answer = await client.post("/agent/stream", json=ASK)
    assert answer.status_code == 200
    assert types_of(answer.text) == ["run", "error", "done"]


@pytest.mark.parametrize(
    ("refusal", "status", "code"),
    [
        (ThreadBusy("busy"), 409, "thread_busy"),
        (QueueFull("full", retry_after=timedelta(seconds=3)), 503, "queue_full"),
        (StorageUnavailable("locked"), 503, "storage"),
    ],
)
@pytest.mark.parametrize("path", ["/agent/invoke", "/agent/stream"])
async def test_a_run_that_is_not_accepted_is_a_problem_on_both(
    fakes: Fakes, path: str, refusal: Exception, status: int, code: str
) -> None:
    fakes.runs.refusal = refusal
    async with calling(fakes) as client:
        answer = await client.post(path, json=ASK)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert ("retry-after" in answer.headers) == (status == 503)


async def test_invoke_of_a_run_that_failed_holds_the_run_in_the_problem(fakes: Fakes) -> None:
    fakes.runs.answer = (RunStatus.TIMEOUT, failed("timeout"))
    async with calling(fakes) as client:
        answer = await client.post("/agent/invoke", json=ASK)
    assert (answer.status_code, answer.json()["code"]) == (504, "timeout")
    assert wire.Run.model_validate(answer.json()["run"]).status == "timeout"


async def test_a_server_that_drains_says_which_run_to_ask_for_later(fakes: Fakes) -> None:
    fakes.runs.answer = None
    async with calling(fakes) as client, asyncio.TaskGroup() as group:
        asking = group.create_task(client.post("/agent/invoke", json=ASK))
        async with asyncio.timeout(5):
            await fakes.runs.created.wait()
        await fakes.runs.hand_over()
        answer = await asking
    assert (answer.status_code, answer.json()["code"]) == (503, "draining")
    assert answer.json()["run"]["run_id"] == fakes.runs.only.run_id
    assert fakes.runs.left == []


@pytest.mark.parametrize("position", ["1-1-1", "7-1-1", "1-1-9"])
async def test_a_run_that_has_just_begun_is_streamed_from_its_beginning(fakes: Fakes, position: str) -> None:
    async with calling(fakes) as client:
        answer = await client.post("/agent/stream", json=ASK, headers={"Last-Event-ID": position})
    assert (answer.status_code, types_of(answer.text)) == (200, ["run", "done"])


async def test_a_position_that_is_none_starts_no_run(fakes: Fakes) -> None:
    async with calling(fakes) as client:
        answer = await client.post("/agent/stream", json=ASK, headers={"Last-Event-ID": "x"})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "Last-Event-ID")
    assert fakes.runs.commands == []


class TestIdempotency:
    async def test_the_same_key_and_body_is_the_same_run_on_invoke_and_stream(self, fakes: Fakes) -> None:
        async with calling(fakes) as client:
            client.headers["Idempotency-Key"] = "k1"
            first = await client.post("/agent/invoke", json={"message": "hi", "thread_id": "t"})
            again = await client.post("/agent/invoke", json={"thread_id": "t", "message": "hi", "agent": None})
            stream = await client.post("/agent/stream", json={"message": "hi", "thread_id": "t"})
        assert first.json()["run_id"] == again.json()["run_id"]
        assert first.json()["run_id"] in stream.text
        assert len(fakes.runs.commands) == 1

    async def test_the_same_key_with_another_body_is_refused(self, fakes: Fakes) -> None:
        async with calling(fakes) as client:
            client.headers["Idempotency-Key"] = "k1"
            await client.post("/agent/invoke", json=ASK)
            other = await client.post("/agent/invoke", json={"message": "ho"})
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")

    @pytest.mark.parametrize("path", ["/agent/invoke", "/agent/stream"])
    @pytest.mark.parametrize(
        ("headers", "asked", "policy"),
        [
            ({}, {}, DisconnectPolicy.CANCEL),
            ({}, {"on_disconnect": "continue"}, DisconnectPolicy.CONTINUE),
            ({"Idempotency-Key": "k"}, {}, DisconnectPolicy.CONTINUE),
            ({"Idempotency-Key": "k"}, {"on_disconnect": None}, DisconnectPolicy.CONTINUE),
            ({"Idempotency-Key": "k"}, {"on_disconnect": "cancel"}, DisconnectPolicy.CANCEL),
        ],
    )
    async def test_a_request_that_may_be_repeated_outlives_its_connection_unless_told_otherwise(
        self, fakes: Fakes, path: str, headers: dict[str, str], asked: dict[str, Any], policy: DisconnectPolicy
    ) -> None:
        async with calling(fakes) as client:
            await client.post(path, json=ASK | asked, headers=headers)
        assert [command.on_disconnect for command in fakes.runs.commands] == [policy]

    async def test_a_body_that_spells_the_default_out_is_the_same_body(self, fakes: Fakes) -> None:
        async with calling(fakes) as client:
            client.headers["Idempotency-Key"] = "k1"
            first = await client.post("/agent/invoke", json=ASK)
            again = await client.post("/agent/invoke", json=ASK | {"on_disconnect": "continue"})
            other = await client.post("/agent/invoke", json=ASK | {"on_disconnect": "cancel"})
        assert first.json()["run_id"] == again.json()["run_id"]
        assert other.json()["code"] == "idempotency_mismatch"

    async def test_a_repeated_stream_goes_on_behind_the_last_event(self, fakes: Fakes) -> None:
        async with calling(fakes) as client:
            client.headers["Idempotency-Key"] = "k1"
            await client.post("/agent/stream", json=ASK)
            rest = await client.post("/agent/stream", json=ASK, headers={"Last-Event-ID": "1-1-1"})
            end = await client.post("/agent/stream", json=ASK, headers={"Last-Event-ID": "1-1-2"})
            foreign = await client.post("/agent/stream", json=ASK, headers={"Last-Event-ID": "7-1-1"})
        assert types_of(rest.text) == ["done"]
        assert end.status_code == 204
        assert types_of(foreign.text) == ["run", "done"]
        assert len(fakes.runs.commands) == 1

    @pytest.mark.parametrize("key", ["", "a b", "x" * 256, "\u00e9"])
    async def test_a_malformed_key_is_refused_by_name(self, fakes: Fakes, key: str) -> None:
        async with calling(fakes) as client:
            answer = await client.post("/agent/invoke", json=ASK, headers={b"Idempotency-Key": key.encode("latin-1")})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == "Idempotency-Key"
        assert fakes.runs.commands == []


class TestRuns:
    async def test_a_run_can_be_looked_at_and_cancelled(self, fakes: Fakes) -> None:
        run = make_run(status=RunStatus.RUNNING, attempt=1)
        fakes.runs.put(run)
        async with calling(fakes) as client:
            seen = await client.get(f"/agent/runs/{run.run_id}")
            for content, kind in [(b"", None), (b"{}", "application/json"), (b"", "application/json")]:
                headers = {"content-type": kind} if kind else {}
                stopped = await client.post(f"/agent/runs/{run.run_id}/cancel", content=content, headers=headers)
                assert stopped.status_code == 202
        assert wire.Run.model_validate_json(seen.content).run_id == run.run_id
        assert fakes.runs.cancelled == [run.run_id] * 3

    @pytest.mark.parametrize(
        ("content", "kind", "status"),
        [
            (b"x", None, 415),
            (b"{}", "text/plain", 415),
            (b'{"a":1}', "application/json", 422),
            (b"[]", "application/json", 422),
        ],
    )
    async def test_cancel_takes_no_other_body(
        self, fakes: Fakes, content: bytes, kind: str | None, status: int
    ) -> None:
        run = make_run()
        fakes.runs.put(run)
        async with calling(fakes) as client:
            headers = {"content-type": kind} if kind else {}
            answer = await client.post(f"/agent/runs/{run.run_id}/cancel", content=content, headers=headers)
        assert answer.status_code == status
        assert fakes.runs.cancelled == []

    async def test_an_interrupted_run_goes_on_in_a_new_one(self, fakes: Fakes) -> None:
        run = make_run(status=RunStatus.INTERRUPTED, attempt=1)
        fakes.runs.put(run)
        async with calling(fakes) as client:
            path = f"/agent/runs/{run.run_id}/resume"
            answer = await client.post(path, json={"value": "yes", "on_disconnect": "continue"})
            stream = await client.post(path, json={"value": "no"}, headers={"Accept": "text/event-stream"})
            silent = await client.post(path)
        assert (answer.status_code, answer.json()["run_id"] != run.run_id) == (200, True)
        assert types_of(stream.text) == ["run", "done"]
        assert silent.status_code == 200
        assert [command.input for command in fakes.runs.commands] == ["yes", "no", None]
        assert [command.on_disconnect.value for command in fakes.runs.commands] == ["continue", "cancel", "cancel"]

    async def test_a_resume_under_the_same_key_answers_once(self, fakes: Fakes) -> None:
        run, other = make_run(status=RunStatus.INTERRUPTED), make_run(status=RunStatus.INTERRUPTED)
        fakes.runs.put(run)
        fakes.runs.put(other)
        async with calling(fakes) as client:
            client.headers["Idempotency-Key"] = "k"
            answers = [await client.post(f"/agent/runs/{run.run_id}/resume", json={"value": 1}) for _ in range(2)]
            wrong = await client.post(f"/agent/runs/{other.run_id}/resume", json={"value": 1})
        assert answers[0].json()["run_id"] == answers[1].json()["run_id"]
        assert [command.on_disconnect for command in fakes.runs.commands] == [DisconnectPolicy.CONTINUE]
        assert wrong.json()["code"] == "idempotency_mismatch"

    async def test_there_is_nothing_to_resume_in_a_run_that_did_well(self, fakes: Fakes) -> None:
        run = make_run(status=RunStatus.SUCCESS)
        fakes.runs.put(run)
        async with calling(fakes) as client:
            answer = await client.post(f"/agent/runs/{run.run_id}/resume", json={})
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


class TestReplay:
    @pytest.fixture
    async def run_id(self, fakes: Fakes) -> str:
        fakes.runs.answer = (RunStatus.ERROR, failed("agent_failed"))
        async with calling(fakes) as client:
            await client.post("/agent/stream", json=ASK)
        return fakes.runs.only.run_id

    async def test_a_stream_can_be_read_again_from_any_event(self, fakes: Fakes, run_id: str) -> None:
        async with calling(fakes) as client:
            path = f"/agent/runs/{run_id}/stream"
            whole = await client.get(path)
            by_header = await client.get(path, headers={"Last-Event-ID": "1-1-2"})
            by_query = await client.get(path, params={"after": "1-1-1"})
            both = await client.get(path, params={"after": "1-1-1"}, headers={"Last-Event-ID": "1-1-2"})
        assert types_of(whole.text) == ["run", "error", "done"]
        assert types_of(by_header.text) == ["done"]
        assert types_of(by_query.text) == ["error", "done"]
        assert both.text == by_header.text

    async def test_a_stream_read_to_its_end_tells_the_browser_to_stop(self, fakes: Fakes, run_id: str) -> None:
        async with calling(fakes) as client:
            answer = await client.get(f"/agent/runs/{run_id}/stream", headers={"Last-Event-ID": "1-1-3"})
        assert (answer.status_code, answer.content) == (204, b"")

    @pytest.mark.parametrize(
        ("headers", "params"), [({"Last-Event-ID": "x"}, {}), ({"Last-Event-ID": "2-1-1"}, {}), ({}, {"after": "1-1"})]
    )
    async def test_a_foreign_position_is_refused(
        self, fakes: Fakes, run_id: str, headers: dict[str, str], params: dict[str, str]
    ) -> None:
        async with calling(fakes) as client:
            answer = await client.get(f"/agent/runs/{run_id}/stream", headers=headers, params=params)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


class TestThreads:
    async def test_threads_come_in_pages(self, fakes: Fakes) -> None:
        async with calling(fakes) as client:
            first = await client.get("/agent/threads", params={"limit": 1})
            last = await client.get("/agent/threads", params={"cursor": first.json()["next_cursor"]})
        assert wire.ThreadPage.model_validate_json(first.content).threads[0].thread_id == "t"
        assert last.json()["next_cursor"] is None

    @pytest.mark.parametrize("params", [{"limit": 0}, {"limit": 101}, {"limit": "x"}, {"cursor": ""}])
    async def test_a_page_is_bounded(self, fakes: Fakes, params: dict[str, Any]) -> None:
        async with calling(fakes) as client:
            answer = await client.get("/agent/threads", params=params)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, next(iter(params)))

    async def test_a_thread_tells_its_messages_state_and_runs(self, fakes: Fakes) -> None:
        async with calling(fakes) as client:
            thread = wire.ThreadDetail.model_validate_json((await client.get("/agent/threads/t")).content)
        assert (thread.messages[0].content, thread.values, len(thread.runs)) == ("hi", {"n": 1}, 1)

    async def test_a_thread_is_erased_unless_it_is_busy(self, fakes: Fakes) -> None:
        async with calling(fakes) as client:
            gone = await client.delete("/agent/threads/t")
            fakes.threads.busy = True
            busy = await client.delete("/agent/threads/t")
        assert (gone.status_code, gone.content) == (204, b"")
        assert (busy.status_code, busy.json()["code"]) == (409, "thread_busy")
        assert fakes.threads.erased == ["t"]


async def test_a_body_that_never_ends_is_given_up(fakes: Fakes) -> None:
    async def dripping() -> AsyncIterator[bytes]:
        yield b'{"message":'
        await asyncio.Event().wait()

    limits = HttpLimits(body_timeout=timedelta(milliseconds=1))
    async with calling(fakes, limits=limits) as client:
        headers = {"content-type": "application/json", "content-length": "100"}
        answer = await client.post("/agent/invoke", content=dripping(), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (408, "request_timeout")
    assert fakes.runs.commands == []


async def test_the_agents_of_a_key_are_listed(fakes: Fakes) -> None:
    async with calling(fakes) as client:
        agents = wire.AgentList.model_validate_json((await client.get("/agent/agents")).content).agents
    assert [agent.name for agent in agents] == ["demo"]
