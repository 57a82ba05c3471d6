"""The control API of a fake provider that runs as its own process: what `FakeProvider` does by method calls.

`POST script` (a `script.Script`), `POST release` (a gate's name), `POST reset`; `GET ledger` (JSON lines), `GET state`.
"""

from typing import Protocol

from pydantic import ValidationError

from tests.support.provider.ledger import Ledger, dump_entries
from tests.support.provider.playbook import Playbook
from tests.support.provider.playing import Gates
from tests.support.provider.script import Script, parse_script
from tests.support.provider.wire import Connection, HttpRequest, json_bytes

PREFIX = "/_control/"


class Controlled(Protocol):
    """The parts of the server that a test steers."""

    ledger: Ledger
    playbook: Playbook
    gates: Gates
    clients: int


async def respond(server: Controlled, connection: Connection, request: HttpRequest) -> None:
    """Obey one control request."""
    status, body = _obey(server, request)
    await connection.respond(status, body, {"content-type": "application/json"})


def _obey(server: Controlled, request: HttpRequest) -> tuple[int, bytes]:
    match request.method, request.path.removeprefix(PREFIX):
        case "POST", "script":
            try:
                server.playbook.load(parse_script(request.body))
            except ValidationError as error:
                return 400, str(error).encode()
        case "POST", "release":
            server.gates.release(request.body.decode())
        case "POST", "reset":
            server.playbook.load(Script())
            server.ledger.clear()
            server.gates.reset()
        case "GET", "ledger":
            return 200, dump_entries(server.ledger.entries())
        case "GET", "state":
            return 200, json_bytes({"clients": server.clients})
        case _:
            return 404, b"no such control"
    return 200, b""
