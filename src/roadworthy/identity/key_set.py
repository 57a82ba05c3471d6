"""Which keys of a JWK set (RFC 7517) may check a signature, and with which algorithm.

Made by ``identity/key_source.py``, kept by ``identity/jwks.py``. Symmetric keys are no keys here: who can check with
one can sign with it. What a key says of its own use is believed; one that says nothing fits all algorithms of its type.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import jwt

from roadworthy.domain.json import JsonValue
from roadworthy.identity.documents import Unusable

_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_BY_CURVE = {
    ("EC", "P-256"): frozenset({"ES256"}),
    ("EC", "P-384"): frozenset({"ES384"}),
    ("EC", "P-521"): frozenset({"ES512"}),
    ("OKP", "Ed25519"): frozenset({"EdDSA"}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySet:
    """Keys that can be used; each is bound to one algorithm, so that one JWK may be here several times."""

    keys: Sequence[jwt.PyJWK] = ()

    @property
    def algorithms(self) -> Sequence[str]:
        """What signatures can be checked, sorted."""
        return sorted({key.algorithm_name for key in self.keys})

    def find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The key that a token names. A token without a ``kid`` is understood when only one key can be meant."""
        fitting = [key for key in self.keys if key.algorithm_name == algorithm and kid in (None, key.key_id)]
        return fitting[0] if len(fitting) == 1 or (fitting and kid is not None) else None


def parse_key_set(document: Mapping[str, JsonValue], algorithms: Sequence[str]) -> KeySet:
    """The keys in a JWK set that fit one of ``algorithms``. Others, weak ones and broken ones are left out.

    Raises:
        Unusable: it is no JWK set.
    """
    listed = document.get("keys")
    if not isinstance(listed, list):
        raise Unusable("the issuer's key document has no list `keys`")
    return KeySet(keys=[key for jwk in listed if isinstance(jwk, dict) for key in _keys_of(jwk, algorithms)])


def _keys_of(jwk: dict[str, JsonValue], algorithms: Sequence[str]) -> Iterable[jwt.PyJWK]:
    if not _is_for_checking(jwk):
        return
    fitting = _fitting(jwk)
    for algorithm in algorithms:
        if algorithm not in fitting or jwk.get("alg") not in (None, algorithm):
            continue
        try:
            key = jwt.PyJWK(jwk, algorithm)
        except (jwt.PyJWTError, ArithmeticError):
            continue
        if key.Algorithm.check_key_length(key.key) is None:
            yield key


def _is_for_checking(jwk: Mapping[str, JsonValue]) -> bool:
    operations = jwk.get("key_ops")
    if operations is not None and not (isinstance(operations, list) and "verify" in operations):
        return False
    # A published private key is everybody's.
    return jwk.get("use") in (None, "sig") and "d" not in jwk and isinstance(jwk.get("kid"), str | None)


def _fitting(jwk: Mapping[str, JsonValue]) -> frozenset[str]:
    kind, curve = jwk.get("kty"), jwk.get("crv")
    if kind == "RSA":
        return _RSA
    return (
        _BY_CURVE.get((kind, curve), frozenset()) if isinstance(kind, str) and isinstance(curve, str) else frozenset()
    )
