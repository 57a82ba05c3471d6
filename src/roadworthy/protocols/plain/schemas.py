"""Components of the OpenAPI document that FastAPI does not find by itself, because no signature names them.

Called by ``app.py``, which hands them to ``http/openapi.py``.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import models_json_schema

from roadworthy.http.deps import HttpLimits
from roadworthy.protocols.plain import wire
from roadworthy.protocols.plain.wire_events import StreamEvent

_REF = "#/components/schemas/{model}"
_BODIES = (wire.RunBody, wire.ResumeBody, wire.CancelBody, wire.ResolveBody)


def schemas(limits: HttpLimits) -> Mapping[str, Mapping[str, Any]]:
    """Request bodies under this server's limits, the events of a stream, and the problem that holds a run."""
    _, found = models_json_schema(
        [*((body, "validation") for body in _BODIES), (wire.RunDetail, "serialization")], ref_template=_REF
    )
    components: dict[str, dict[str, Any]] = found["$defs"]
    components["RunBody"]["properties"]["message"] = wire.message_schema(limits.message_max)
    events = TypeAdapter[StreamEvent](StreamEvent).json_schema(ref_template=_REF, mode="serialization")
    components |= {name: schema for name, schema in events.pop("$defs").items() if name not in components}
    components["StreamEvent"] = events
    components["RunProblem"] = {
        "description": "A problem; `run` is there when a run was created and ended without an answer.",
        "allOf": [{"$ref": _REF.format(model="Problem")}],
        "properties": {"run": {"$ref": _REF.format(model="RunDetail")}},
    }
    return components
