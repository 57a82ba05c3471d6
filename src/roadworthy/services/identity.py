"""Who is calling: an API key of ours, or a bearer token of the operator's identity provider.

Asked by ``http/auth.py``; asks ``services/keys.py`` or ``ports/identity.py``.
"""

import re

from roadworthy.domain.principal import Principal
from roadworthy.ports.identity import TokenVerifier
from roadworthy.services.key_text import PREFIX
from roadworthy.services.keys import Keys

# The compact form of a signed JWT (RFC 7515, section 7.1): three parts in base64url.
_JWT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")


class Identity:
    """``tokens`` None: no identity provider is configured; only keys open anything."""

    def __init__(self, keys: Keys, tokens: TokenVerifier | None) -> None:
        self._keys = keys
        self._tokens = tokens

    async def authenticate(self, text: str) -> Principal:
        """The caller behind a credential. What is neither a key nor a token is refused as an unknown key is.

        Raises:
            Unauthenticated: it opens nothing; the message does not say why.
            Unavailable: the database, or the provider's keys, cannot be had: nothing is believed unseen.
        """
        if self._tokens is not None and not text.startswith(PREFIX) and _JWT.fullmatch(text):
            return await self._tokens.verify(text)
        return await self._keys.authenticate(text)
