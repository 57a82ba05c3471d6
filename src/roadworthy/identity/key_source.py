"""Where an issuer publishes its keys: at an address that the operator gave, or one found by discovery.

Asked by ``identity/jwks.py`` when keys are wanted, and by ``doctor``. Discovery is OpenID Connect Discovery 1.0,
section 4: the document must name exactly the issuer that it was asked for.
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

import httpx

from roadworthy.identity.documents import Unusable, fetch_object
from roadworthy.identity.key_set import KeySet, parse_key_set

_WELL_KNOWN = "/.well-known/openid-configuration"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySource:
    """``patience``: how long one look may take, discovery included."""

    client: httpx.AsyncClient
    issuer: str
    jwks_url: str | None
    algorithms: tuple[str, ...]
    patience: timedelta = timedelta(seconds=5)

    async def fetch(self) -> KeySet:
        """The keys that are published now.

        Raises:
            Unusable: they cannot be had; the text says why.
        """
        try:
            async with asyncio.timeout(self.patience.total_seconds()):
                url = self.jwks_url or await self._discover()
                return parse_key_set(await fetch_object(self.client, url), self.algorithms)
        except TimeoutError as error:
            raise Unusable(f"the keys of {self.issuer} took longer than {self.patience.total_seconds():g} s") from error

    async def _discover(self) -> str:
        found = await fetch_object(self.client, discovery_url(self.issuer))
        if found.get("issuer") != self.issuer:
            raise Unusable(f"the discovery document of {self.issuer} names another issuer")
        url = found.get("jwks_uri")
        if not isinstance(url, str):
            raise Unusable(f"the discovery document of {self.issuer} has no `jwks_uri`")
        return url


def discovery_url(issuer: str) -> str:
    """Where an issuer describes itself."""
    return issuer.rstrip("/") + _WELL_KNOWN
