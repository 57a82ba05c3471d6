"""``Idempotency-Key`` header → the record that makes two requests one.

Called by the routes that create runs; ``storage`` keeps the record with the run, in the same transaction.
"""

import hashlib
from typing import Annotated

from fastapi import Header

from roadworthy.http.encoding import canonical_json
from roadworthy.http.patterns import IDEMPOTENCY_KEY
from roadworthy.ports.queue import IdempotencyRecord

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=IDEMPOTENCY_KEY,
        description="Repeating a request with the same key and body returns the same run instead of starting another. "
        "The run then outlives this connection, unless `on_disconnect` says otherwise.",
    ),
]


def record_of(key: str | None, asked: object) -> IdempotencyRecord | None:
    """The record of a request that carries a key. ``asked``: what the caller wants as JSON, without what is default."""
    if key is None:
        return None
    return IdempotencyRecord(key=key, body_hash=hashlib.sha256(canonical_json(asked)).hexdigest())
