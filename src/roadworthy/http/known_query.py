"""Query parameters that a route does not have are refused.

A mistyped ``subject`` must not remove everybody's limit, nor a mistyped ``user`` show everybody's costs. A dependency
of routes that operators call by hand; it runs after the caller is known.
"""

from typing import Annotated, Final

from fastapi import Depends
from fastapi.routing import APIRoute
from starlette.requests import Request

from roadworthy.domain.errors import InvalidRequest
from roadworthy.http.auth import Call, authenticate

_MOST_NAMED: Final = 3
_LONGEST_NAME: Final = 64


async def known_query(request: Request, _call: Annotated[Call, Depends(authenticate)]) -> None:
    """Compare the request's query with the parameters of its route.

    Raises:
        InvalidRequest: there are others; the message names them.
    """
    route = request.scope["route"]
    if not isinstance(route, APIRoute):
        raise TypeError("only a route of FastAPI says which parameters it has")
    known = [parameter.alias for parameter in route.dependant.query_params]
    strange = [name[:_LONGEST_NAME] for name in request.query_params if name not in known]
    if strange:
        has = f"the route has {', '.join(known)}" if known else "the route has none"
        named = ", ".join(map(repr, strange[:_MOST_NAMED]))
        raise InvalidRequest(f"unknown query parameter {named}: {has}", field=strange[0])
