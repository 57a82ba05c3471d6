"""Anthropic's error types, their HTTP statuses, and the envelope around them."""

from dataclasses import dataclass

from pydantic import JsonValue

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_MESSAGES = {
    401: "invalid x-api-key",
    429: "This request would exceed your organization's rate limit.",
    500: "Internal server error",
    529: "Overloaded",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiError:
    """An error to answer; `retry_after` in seconds becomes a header of an HTTP answer."""

    status: int
    message: str | None = None
    retry_after: float | None = None

    def envelope(self, request_id: str) -> dict[str, JsonValue]:
        """The body, for an HTTP answer and for an in-stream `error` event alike."""
        kind = _TYPES.get(self.status, "api_error")
        message = self.message or _MESSAGES.get(self.status, kind)
        return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}
