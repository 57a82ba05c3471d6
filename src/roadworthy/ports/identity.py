"""Checking bearer tokens of an identity provider. Adapter: ``identity``; asked by ``services/identity.py``."""

from typing import Protocol

from roadworthy.domain.principal import Principal


class TokenVerifier(Protocol):
    """See the module."""

    async def verify(self, token: str) -> Principal:
        """The caller that a JWT (RFC 7519) names.

        Raises:
            Unauthenticated: its signature, issuer, audience, time or claims do not fit; the message does not say which.
            Unavailable: the provider's keys cannot be had now.
        """
        ...
