import asyncio
from collections import deque

import pytest
from starlette.types import Message, Receive, Scope, Send

from roadworthy.domain.errors import BodyTooLarge
from roadworthy.http.request_body import BodyLimit, UnreadBody

CHUNK = b"x" * 1000


class Sender:
    """A client that sends its body in chunks of 1000 bytes, and remembers what it was sent when."""

    def __init__(self, chunks: int, *, ends: bool = True) -> None:
        last = {"type": "http.request", "body": CHUNK, "more_body": not ends}
        more = {"type": "http.request", "body": CHUNK, "more_body": True}
        self.left: deque[Message] = deque([more] * (chunks - 1) + [last] * (chunks > 0))
        self.got: list[tuple[Message, int]] = []

    async def receive(self) -> Message:
        if not self.left:
            await asyncio.Event().wait()
        return self.left.popleft()

    async def send(self, message: Message) -> None:
        self.got.append((message, len(self.left)))


def scope_of(**headers: str) -> Scope:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "headers": pairs}


async def refuse(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 401, "headers": []})
    await send({"type": "http.response.body", "body": b"no"})


async def read_all(_scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


async def serve(app: BodyLimit | UnreadBody, scope: Scope, sender: Sender) -> None:
    async with asyncio.timeout(5):
        await app(scope, sender.receive, sender.send)


def closes(message: Message) -> bool:
    return (b"connection", b"close") in message["headers"]


async def test_a_small_unread_body_is_taken_before_the_answer_and_the_connection_stays() -> None:
    sender = Sender(3)
    await serve(UnreadBody(refuse), scope_of(content_length="3000"), sender)
    (start, left), (end, _) = sender.got
    assert left == 0
    assert not closes(start)
    assert end.get("more_body", False) is False


@pytest.mark.parametrize("headers", [{"content_length": "300000"}, {"transfer_encoding": "chunked"}])
async def test_a_large_unread_body_is_taken_between_the_answer_and_its_end(headers: dict[str, str]) -> None:
    sender = Sender(300)
    await serve(UnreadBody(refuse), scope_of(**headers), sender)
    (start, at_start), (body, at_body), (end, at_end) = sender.got
    assert closes(start)
    assert (at_start, at_body, at_end) == (300, 300, 0)
    assert (body["body"], body["more_body"]) == (b"no", True)
    assert (end["body"], end["more_body"]) == (b"", False)


async def test_a_client_that_waits_for_leave_to_send_is_answered_at_once() -> None:
    sender = Sender(1)
    await serve(UnreadBody(refuse), scope_of(content_length="1000", expect="100-continue"), sender)
    assert sender.got[0][1] == 1
    assert closes(sender.got[0][0])


async def test_a_body_without_end_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roadworthy.http.request_body._DRAIN_SECONDS", 0.01)
    sender = Sender(3, ends=False)
    await serve(UnreadBody(refuse), scope_of(transfer_encoding="chunked"), sender)
    assert sender.got[-1][0]["more_body"] is False


async def test_a_body_larger_than_any_patience_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roadworthy.http.request_body._DRAIN_MAX", 10_000)
    sender = Sender(300)
    await serve(UnreadBody(refuse), scope_of(transfer_encoding="chunked"), sender)
    assert sender.got[-1][0]["more_body"] is False
    assert len(sender.left) == 290


async def test_a_body_that_was_read_changes_nothing() -> None:
    sender = Sender(3)
    await serve(UnreadBody(read_all), scope_of(content_length="3000"), sender)
    assert [message for message, _ in sender.got] == [
        {"type": "http.response.start", "status": 200, "headers": []},
        {"type": "http.response.body", "body": b"ok"},
    ]


async def test_a_declared_length_over_the_limit_is_refused_unread() -> None:
    sender = Sender(3)
    with pytest.raises(BodyTooLarge):
        await serve(BodyLimit(read_all, limit=2999), scope_of(content_length="3000"), sender)
    assert len(sender.left) == 3


async def test_an_undeclared_body_is_refused_when_it_passes_the_limit() -> None:
    sender = Sender(300)
    with pytest.raises(BodyTooLarge):
        await serve(BodyLimit(read_all, limit=2999), scope_of(transfer_encoding="chunked"), sender)
    assert len(sender.left) == 297


async def test_a_body_of_exactly_the_limit_is_taken() -> None:
    sender = Sender(3)
    await serve(BodyLimit(read_all, limit=3000), scope_of(content_length="3000"), sender)
    assert sender.got[0][0]["status"] == 200
