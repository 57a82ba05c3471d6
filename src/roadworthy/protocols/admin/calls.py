"""What every route of the admin API does with its call: say who acts, for the audit log, and answer in JSON."""

from starlette.responses import Response

from roadworthy.domain.audit import Actor
from roadworthy.http.auth import Call
from roadworthy.http.encoding import to_json


def actor_of(call: Call) -> Actor:
    """The key that was used, or the user that a bearer token named."""
    principal = call.principal
    name = f"user:{principal.owner.user}" if principal.key_id is None else f"key:{principal.key_id}"
    return Actor(name=name, request_id=call.request_id)


def json_response(document: object, *, status: int = 200) -> Response:
    """A JSON body."""
    return Response(to_json(document), status, media_type="application/json")
