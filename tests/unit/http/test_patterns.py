"""No refusal shows a regular expression."""

from collections.abc import Iterator

from roadworthy.app import build_app
from roadworthy.http.deps import HttpLimits
from roadworthy.http.patterns import TEXTS, readable
from roadworthy.protocols.admin import wire as admin
from roadworthy.protocols.plain import wire as plain
from tests.support.web.fakes import Fakes

BODIES = (plain.RunBody, plain.ResumeBody, plain.CancelBody, admin.BudgetBody, admin.RateBody, admin.KeyBody)


def patterns(schema: object) -> Iterator[str]:
    match schema:
        case {"pattern": str() as pattern}:
            yield pattern
        case dict():
            for name, part in schema.items():
                # These are checked by code of ours, which speaks for itself: their patterns are for readers.
                if name != "message" and not str(name).endswith("_usd"):
                    yield from patterns(part)
        case list():
            for part in schema:
                yield from patterns(part)
        case _:
            pass


def test_every_pattern_of_a_request_has_a_text() -> None:
    document = build_app(Fakes().services, HttpLimits(), auth=True, version="0", api_version="v1").openapi()
    asked = [operation["parameters"] for path in document["paths"].values() for operation in path.values()]
    found = {*patterns(asked), *(one for body in BODIES for one in patterns(body.model_json_schema()))}
    assert found
    assert found <= set(TEXTS)


def test_a_pattern_that_was_not_met_is_told_in_words() -> None:
    for pattern, text in TEXTS.items():
        assert readable(f"String should match pattern '{pattern}'") == text
    assert readable("Field required") == "Field required"
