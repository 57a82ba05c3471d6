"""Who changed what about keys, limits and budgets.

Written in the transaction of the change itself, and never altered.
"""

from dataclasses import dataclass
from datetime import datetime

from roadworthy.domain.ids import TenantId
from roadworthy.domain.json import JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who does it: ``key:<id>``, ``user:<name>`` (a bearer token) or ``cli:<operating system user>``."""

    name: str
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One change. ``action`` as in ``budget.set``; ``target`` names what was changed; no secret is in either side."""

    seq: int
    at: datetime
    tenant: TenantId
    actor: Actor
    action: str
    target: str
    before: JsonObject | None
    after: JsonObject | None
