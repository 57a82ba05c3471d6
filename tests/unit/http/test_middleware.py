import pytest
import structlog
from structlog.testing import capture_logs

from roadworthy.http.deps import HttpLimits
from tests.support.web.calls import calling
from tests.support.web.fakes import KEY, Fakes


async def test_a_sane_request_id_is_kept_and_returned() -> None:
    async with calling(Fakes()) as client:
        answer = await client.get("/agent/runs/x", headers={"X-Request-Id": "abc-1"})
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "abc-1"


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "a\tb", 'a"b'])
async def test_any_other_request_id_is_replaced(given: str) -> None:
    async with calling(Fakes()) as client:
        answer = await client.get("/livez", headers={"X-Request-Id": given})
    assert len(answer.headers["x-request-id"]) == 32


async def test_every_record_of_a_request_names_it() -> None:
    fakes = Fakes()
    fakes.runs.refusal = RuntimeError("secret detail")
    with capture_logs([structlog.contextvars.merge_contextvars]) as records:
        async with calling(fakes) as client:
            answer = await client.post("/agent/invoke", json={"message": "hi"}, headers={"X-Request-Id": "r7"})
    assert answer.status_code == 500
    assert answer.json()["code"] == "internal"
    assert "secret" not in answer.text
    assert {record["event"] for record in records} == {"request_failed", "http_request"}
    assert {record["request_id"] for record in records} == {"r7"}
    assert KEY not in str(records)


async def test_every_response_has_the_security_headers() -> None:
    async with calling(Fakes()) as client:
        for path in ("/health", "/nowhere", "/agent/threads"):
            headers = (await client.get(path)).headers
            assert headers["x-content-type-options"] == "nosniff", path
            assert headers["cache-control"] == "no-store", path
            assert headers["content-security-policy"] == "frame-ancestors 'none'", path


async def test_other_origins_get_nothing_unless_they_are_named() -> None:
    asking = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    async with calling(Fakes()) as client:
        assert (await client.options("/agent/invoke", headers=asking)).status_code == 405
        plain = await client.get("/health", headers={"Origin": "https://a.example"})
    assert "access-control-allow-origin" not in plain.headers


async def test_a_named_origin_may_call_and_read_problems_too() -> None:
    limits = HttpLimits(cors_origins=("https://a.example",))
    asking = {
        "Origin": "https://a.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,idempotency-key",
    }
    async with calling(Fakes(), limits=limits, key=None) as client:
        preflight = await client.options("/agent/invoke", headers=asking)
        refused = await client.post("/agent/invoke", json={}, headers={"Origin": "https://a.example"})
        foreign = await client.options("/agent/invoke", headers=asking | {"Origin": "https://b.example"})
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://a.example"
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://a.example"
    assert foreign.status_code == 400
    assert "access-control-allow-origin" not in foreign.headers


async def test_a_path_with_nothing_behind_it_and_a_wrong_method_are_problems() -> None:
    async with calling(Fakes()) as client:
        missing, wrong = await client.get("/agent/"), await client.put("/agent/invoke")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    assert (wrong.status_code, wrong.json()["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"
