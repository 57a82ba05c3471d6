"""Request bodies as components of the OpenAPI document: no signature names them, because ``JsonBody`` reads them.

Called by ``app.py``, which hands them to ``http/openapi.py``.
"""

from collections.abc import Mapping
from typing import Any

from pydantic.json_schema import models_json_schema

from roadworthy.protocols.admin import wire

_BODIES = (wire.BudgetBody, wire.TopUpBody, wire.RateBody, wire.KeyBody, wire.RotationBody)


def schemas() -> Mapping[str, Mapping[str, Any]]:
    """Every body that a route of the admin API reads."""
    _, found = models_json_schema(
        [(body, "validation") for body in _BODIES], ref_template="#/components/schemas/{model}"
    )
    components: dict[str, dict[str, Any]] = found["$defs"]
    return components
