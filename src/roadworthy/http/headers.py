"""One header of a request, for middleware that looks at one or two of them on every request."""

from starlette.types import Scope


def header_of(scope: Scope, name: bytes) -> str | None:
    """The value of the first header ``name`` (in lower case, as ASGI has them), or None."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None
