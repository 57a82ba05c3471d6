from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.routing import Route

from roadworthy.app import build_app
from roadworthy.http.deps import HttpLimits
from tests.support.web.calls import calling
from tests.support.web.fakes import Fakes


def app(*, auth: bool = True, message_max: int = 4000) -> FastAPI:
    limits = HttpLimits(message_max=message_max)
    return build_app(Fakes().services, limits, auth=auth, version="1.2.3", api_version="v7")


DOCUMENT = app().openapi()


def operations(document: dict[str, Any] = DOCUMENT) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_every_reference_leads_somewhere() -> None:
    for reference in set(references(DOCUMENT)):
        node: Any = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
        assert isinstance(node, dict), reference


def test_every_operation_has_a_short_name_of_its_own() -> None:
    names = [operation["operationId"] for _, _, operation in operations()]
    assert sorted(names) == sorted(set(names))
    assert all(name.replace("_", "").isalpha() for name in names)


@pytest.mark.parametrize(("method", "path", "operation"), list(operations()))
def test_every_operation_tells_its_errors_headers_and_keys(method: str, path: str, operation: dict[str, Any]) -> None:
    public = "health" in operation["tags"]
    assert operation.get("security", []) == ([] if public else [{"bearer": []}, {"api_key": []}])
    for status, response in operation["responses"].items():
        assert "X-Request-Id" in response["headers"], (path, status)
        if int(status) >= 400 and not public:
            assert list(response["content"]) == ["application/problem+json"], (path, status)
    assert public or {"401", "403", "422", "500", "503"} <= set(operation["responses"])
    assert ("requestBody" in operation) == (method in ("POST", "PUT"))


def test_rates_are_told_by_the_operations_that_begin_runs_and_by_no_other() -> None:
    rated = {
        operation["operationId"]: {
            status for status, one in operation["responses"].items() if "RateLimit" in one["headers"]
        }
        for _, _, operation in operations()
    }
    assert {name: statuses for name, statuses in rated.items() if statuses} == {
        "invoke": {"200", "429"},
        "stream": {"200", "204", "429"},
        "resume_run": {"200", "429"},
    }


def test_the_limits_of_this_server_are_in_its_document() -> None:
    schemas = app(message_max=77).openapi()["components"]["schemas"]
    assert schemas["RunBody"]["properties"]["message"]["anyOf"][0]["maxLength"] == 77
    assert DOCUMENT["info"]["version"] == "v7"


def test_no_parameter_is_said_to_be_null() -> None:
    schemas = [parameter.get("schema", {}) for _, _, operation in operations() for parameter in operation["parameters"]]
    assert not [schema for schema in schemas if "anyOf" in schema]


def test_without_auth_no_key_is_asked_for() -> None:
    document = app(auth=False).openapi()
    assert "securitySchemes" not in document["components"]
    assert not [path for _, path, operation in operations(document) if "security" in operation]


async def test_the_document_is_served_without_a_key() -> None:
    async with calling(Fakes(), key=None) as client:
        assert (await client.get("/openapi.json")).json()["info"]["title"] == "Roadworthy"


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_there_is_no_page_that_would_load_scripts_from_elsewhere(path: str) -> None:
    async with calling(Fakes()) as client:
        assert (await client.get(path)).status_code == 404


async def test_only_the_probes_and_the_document_are_open() -> None:
    served = app()
    paths = {route.path: route.methods or set() for route in served.routes if isinstance(route, Route)}
    assert set(served.openapi()["paths"]) < set(paths)
    async with calling(Fakes(), key=None) as client:
        answers = {path: await client.request(min(methods), path) for path, methods in paths.items()}
    opened = {path for path, answer in answers.items() if answer.status_code != 401}
    assert opened == {"/health", "/livez", "/readyz", "/openapi.json"}


async def test_a_wrong_method_is_told_every_right_one() -> None:
    async with calling(Fakes()) as client:
        assert (await client.put("/agent/threads/t")).headers["allow"] == "DELETE, GET"
        assert (await client.get("/agent/invoke")).headers["allow"] == "POST"
