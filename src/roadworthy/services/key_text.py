"""The text of an API key: how it reads, how it is made, and what is stored of it. Used by ``keys.py``.

A key reads ``rw_live_<id:12><secret:32><checksum:6>`` in base 62. A given admin key may be any other text after the
prefix; its id is derived from it.
"""

import binascii
import hmac
import re
import secrets
import string

from roadworthy.domain.ids import KeyId

PREFIX = "rw_live_"

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_ID, _SECRET, _CHECKSUM = 12, 32, 6
_OURS = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{_ID + _SECRET + _CHECKSUM}}}")
_GIVEN = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{8,200}}")
# Characters after the prefix; of random ones, 24 are more than 128 bits.
_LONG_ENOUGH = 24


def new_text() -> str:
    """A key that nobody has."""
    body = "".join(secrets.choice(_ALPHABET) for _ in range(_ID + _SECRET))
    return PREFIX + body + _checksum(body)


def key_id_of(text: str, pepper: bytes) -> KeyId | None:
    """The public id inside a key of ours; for a given admin key, an id derived from it. None: no key at all."""
    if _OURS.fullmatch(text):
        body, checksum = text[len(PREFIX) : -_CHECKSUM], text[-_CHECKSUM:]
        if hmac.compare_digest(checksum, _checksum(body)):
            return KeyId(body[:_ID])
    if _GIVEN.fullmatch(text):
        return KeyId("given-" + digest_of(text, pepper).hex()[:12])
    return None


def digest_of(text: str, pepper: bytes) -> bytes:
    """What is stored: HMAC-SHA256 of the whole text."""
    return hmac.digest(pepper, text.encode(), "sha256")


def is_short(text: str) -> bool:
    """Whether a key that somebody made up has so few characters that it may be guessed."""
    return len(text.removeprefix(PREFIX)) < _LONG_ENOUGH


def _checksum(body: str) -> str:
    """CRC-32 in base 62, so that secret scanners and typing errors are told apart without a look-up."""
    number = binascii.crc32(body.encode())
    digits = ""
    for _ in range(_CHECKSUM):
        number, digit = divmod(number, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits
