import pytest

from roadworthy.domain.principal import USER_SCOPES
from tests.support.web.calls import calling
from tests.support.web.fakes import BACKEND_KEY, KEY, ON_BEHALF_KEY, Fakes, RunResult, RunStatus

ASK = {"message": "hi"}


@pytest.fixture
def fakes() -> Fakes:
    fakes = Fakes()
    fakes.runs.answer = (RunStatus.SUCCESS, RunResult(response="ho"))
    return fakes


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer   {KEY} "},
        {"x-api-key": KEY},
        {"Authorization": f"Bearer {KEY}", "x-api-key": KEY},
        {"Authorization": "Basic dXNlcjpwdw==", "x-api-key": KEY},
    ],
)
async def test_a_key_is_taken_from_either_header(fakes: Fakes, headers: dict[str, str]) -> None:
    async with calling(fakes, key=None) as client:
        answer = await client.post("/agent/invoke", json=ASK, headers=headers)
    assert answer.status_code == 200
    assert fakes.runs.principals[0].owner.user == "alice"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic dXNlcjpwdw=="},
        {"x-api-key": ""},
        {"x-api-key": "rw_live_nobody"},
        {"x-api-key": "rw_live_" + "x" * 600},
        {"x-api-key": b"rw_live_\xc3\xa9"},
        {"Authorization": f"Bearer {KEY}", "x-api-key": BACKEND_KEY},
        [("x-api-key", KEY), ("x-api-key", BACKEND_KEY)],
    ],
)
async def test_without_one_usable_key_nothing_is_told(fakes: Fakes, headers: dict[str, str]) -> None:
    async with calling(fakes, key=None) as client:
        answer = await client.post("/agent/invoke", json=ASK, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["code"] == "unauthenticated"
    assert KEY not in answer.text
    assert fakes.runs.commands == []


@pytest.mark.parametrize("key", [BACKEND_KEY, ON_BEHALF_KEY])
async def test_a_backend_names_the_user_it_calls_for(fakes: Fakes, key: str) -> None:
    async with calling(fakes, key=key) as client:
        answer = await client.post("/agent/invoke", json=ASK, headers={"X-On-Behalf-Of": "carol@example.org"})
    assert answer.status_code == 200
    (principal,) = fakes.runs.principals
    assert (principal.owner.tenant, principal.owner.user) == ("default", "carol@example.org")
    assert principal.scopes == USER_SCOPES, "a user does not inherit the right to speak for others"


async def test_a_key_that_only_speaks_for_others_opens_nothing_of_its_own(fakes: Fakes) -> None:
    async with calling(fakes, key=ON_BEHALF_KEY) as client:
        answer = await client.post("/agent/invoke", json=ASK)
    assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")
    assert fakes.runs.commands == []


async def test_a_users_own_key_cannot_speak_for_another(fakes: Fakes) -> None:
    async with calling(fakes) as client:
        answer = await client.post("/agent/invoke", json=ASK, headers={"X-On-Behalf-Of": "bob"})
    assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")


@pytest.mark.parametrize("name", ["", "a b", "x" * 129, "a/b"])
async def test_a_malformed_user_name_is_refused(fakes: Fakes, name: str) -> None:
    async with calling(fakes, key=BACKEND_KEY) as client:
        answer = await client.get("/agent/threads", headers={"X-On-Behalf-Of": name})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "X-On-Behalf-Of"


async def test_what_another_user_owns_does_not_exist(fakes: Fakes) -> None:
    async with calling(fakes) as client:
        run_id = (await client.post("/agent/invoke", json=ASK)).json()["run_id"]
    async with calling(fakes, key=BACKEND_KEY) as client:
        for path in (f"/agent/runs/{run_id}", f"/agent/runs/{run_id}/stream", "/agent/threads/t"):
            assert (await client.get(path)).json()["code"] == "not_found", path
        for path in (f"/agent/runs/{run_id}/cancel", f"/agent/runs/{run_id}/resume"):
            assert (await client.post(path)).status_code == 404, path
        assert (await client.delete("/agent/threads/t")).status_code == 404
    assert fakes.threads.erased == fakes.runs.cancelled == []


async def test_without_auth_every_local_caller_is_the_local_user(fakes: Fakes) -> None:
    async with calling(fakes, auth=False, key=None) as client:
        assert (await client.post("/agent/invoke", json=ASK)).status_code == 200
    assert fakes.runs.principals[0].owner.user == "local"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "[::1]:8000", "dev.localhost:1"])
async def test_without_auth_loopback_names_are_answered(fakes: Fakes, host: str) -> None:
    async with calling(fakes, auth=False, key=None) as client:
        assert (await client.get("/agent/threads", headers={"host": host})).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "192.168.1.2:8000", "", "[::1"])
async def test_without_auth_a_foreign_name_for_this_machine_is_refused(fakes: Fakes, host: str) -> None:
    async with calling(fakes, auth=False, key=None) as client:
        answer = await client.get("/agent/threads", headers={"host": host})
    assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")


async def test_the_body_is_not_looked_at_before_the_caller_is_known(fakes: Fakes) -> None:
    async with calling(fakes, key=None) as client:
        answer = await client.post("/agent/invoke", content=b"{", headers={"content-type": "text/plain"})
    assert answer.status_code == 401
