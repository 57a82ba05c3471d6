"""One JSON document of an identity provider, over HTTPS, within bounds.

Asked by ``identity/key_source.py``. What comes from there is not trusted to be short, prompt or JSON.
"""

import ipaddress
import json
from collections.abc import Mapping
from typing import cast

import httpx

from roadworthy.domain.json import JsonValue

BYTES_MAX = 256 * 1024
_OK = 200
_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity"}  # a packed answer has no bound


class Unusable(Exception):
    """A document cannot be had or is not what it should be. The text says why, to the operator."""


def address_problem(url: str) -> str | None:
    """What is wrong with an address for keys, or None: they must come over HTTPS, or from this machine."""
    try:
        parts = httpx.URL(url)
        if parts.scheme == "https" and parts.host:
            return None
        if parts.scheme == "http" and _is_loopback(parts.host):
            return None
    except (httpx.InvalidURL, ValueError):
        return f"{url!r} is no address"
    return f"{url!r} is no https address"


async def fetch_object(client: httpx.AsyncClient, url: str) -> Mapping[str, JsonValue]:
    """The JSON object at ``url``. A redirect is not followed: keys come from where the operator said, or not at all.

    Raises:
        Unusable: the address, the connection, the status, the size or the content is not as it should be.
    """
    problem = address_problem(url)
    if problem is not None:
        raise Unusable(problem)
    try:
        async with client.stream("GET", url, headers=_HEADERS, follow_redirects=False) as response:
            body = await _body_of(response)
    except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as error:
        raise Unusable(f"{url} cannot be reached: {error or type(error).__name__}") from error
    try:
        value = cast("JsonValue", json.loads(body))
    except (ValueError, RecursionError) as error:
        raise Unusable(f"{url} did not answer with JSON") from error
    if not isinstance(value, dict):
        raise Unusable(f"{url} did not answer with a JSON object")
    return value


async def _body_of(response: httpx.Response) -> bytes:
    if response.status_code != _OK:
        raise Unusable(f"{response.url} answered with the status {response.status_code}")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise Unusable(f"{response.url} answered with a packed body")
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > BYTES_MAX:
            raise Unusable(f"{response.url} answered with more than {BYTES_MAX} bytes")
    return bytes(body)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
