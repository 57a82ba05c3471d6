"""The parts of a user's export as JSON objects, one a line. Written by the admin API and by ``cli/users.py``.

Each names its ``kind``; ``docs/retention.md`` describes them. No digest and no secret is among them.
"""

import re
from dataclasses import asdict

from roadworthy.domain.event import Event
from roadworthy.domain.principal import ApiKey
from roadworthy.domain.thread import Message
from roadworthy.http.encoding import to_json
from roadworthy.ports.retention import CallOnRecord, SentKey
from roadworthy.protocols.admin.documents import Json, key_json
from roadworthy.services.user_export import ExportBegin, ExportedItem, ExportedRun, ExportedThread, Part
from roadworthy.services.users import Erased

_VERSION = 1
# Where a name's next word begins.
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")


def part_line(part: Part) -> bytes:
    """A part as one line of JSON."""
    return to_json(part_json(part)) + b"\n"


def part_json(part: Part) -> Json:
    """A part."""
    match part:
        case ExportBegin():
            kind, fields = "export", _begin_json(part)
        case ApiKey():
            kind, fields = "key", key_json(part)
        case ExportedThread():
            kind, fields = "thread", _thread_json(part)
        case ExportedRun():
            kind, fields = "run", _run_json(part)
        case SentKey():
            kind, fields = "idempotency_key", asdict(part)
        case ExportedItem():
            kind, fields = "item", dict(part.item)
        case CallOnRecord():
            kind, fields = "model_call", _call_json(part)
        case _:
            kind, fields = "end", {"counts": dict(part.counts)}
    return {"kind": kind, **fields}


def erased_json(erased: Erased) -> Json:
    """What an erasure has removed."""
    return asdict(erased)


def _begin_json(part: ExportBegin) -> Json:
    return {
        "version": _VERSION,
        "tenant": part.owner.tenant,
        "user": part.owner.user,
        "exported_at": part.at,
        "states": part.states,
    }


def _thread_json(part: ExportedThread) -> Json:
    thread, state = part.thread, part.state
    return {
        "thread_id": thread.ref.thread_id,
        "agent": thread.agent,
        "created_at": thread.created_at,
        "updated_at": thread.updated_at,
        "messages": None if state is None else [_message_json(message) for message in state.messages],
        "values": None if state is None else state.values,
        "unreadable": part.unreadable,
    }


def _message_json(message: Message) -> Json:
    return {
        "id": message.id,
        "role": message.role,
        "content": message.content,
        "tool_calls": list(message.tool_calls),
        "tool_call_id": message.tool_call_id,
        "name": message.name,
        "stop_reason": message.stop_reason,
    }


def _run_json(part: ExportedRun) -> Json:
    run, request = part.run, part.run.request
    return {
        "run_id": run.run_id,
        "thread_id": run.thread_id,
        "ord": run.ord,
        "agent": run.agent,
        "status": run.status.value,
        "attempt": run.attempt,
        "key_id": run.key_id,
        "request_id": run.request_id,
        "created_at": run.created_at,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "request": {
            "kind": request.kind.value,
            "payload": request.payload,
            "context": request.context,
            "metadata": request.metadata,
        },
        "result": asdict(run.result),
        "events": [_event_json(event) for event in part.events],
    }


def _event_json(event: Event) -> Json:
    name = type(event.body).__name__
    return {"id": str(event.id), "type": _HUMP.sub("_", name).lower(), "data": asdict(event.body)}


def _call_json(part: CallOnRecord) -> Json:
    return {
        "run_id": part.run_id,
        "thread_id": part.thread_id,
        "agent": part.agent,
        "key_id": part.key_id,
        **asdict(part.call),
    }
