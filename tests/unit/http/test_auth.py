from dataclasses import replace

import pytest

from roadworthy.domain.errors import Unauthenticated, Unavailable
from roadworthy.domain.ids import TenantId, UserId
from roadworthy.domain.principal import USER_SCOPES, Owner, Principal, Scope
from roadworthy.services.identity import Identity
from tests.support.web.calls import calling
from tests.support.web.fakes import BACKEND_KEY, KEY, ON_BEHALF_KEY, FakeKeys, Fakes, RunResult, RunStatus

ASK = {"message": "hi"}
TOKEN = "head.dora." + "s" * 4000
BACKEND_TOKEN = "head.gateway.signature"


class FakeTokens:
    """Two tokens of a provider: of the user dora, and of a gateway that speaks for others."""

    def __init__(self) -> None:
        self.refusal: Exception = Unauthenticated("the bearer token is not valid")

    async def verify(self, token: str) -> Principal:
        scopes = {TOKEN: USER_SCOPES, BACKEND_TOKEN: frozenset({Scope.RUNS_ON_BEHALF})}.get(token)
        if scopes is None:
            raise self.refusal
        return Principal(owner=Owner(tenant=TenantId("acme"), user=UserId(token.split(".")[1])), scopes=scopes)


@pytest.fixture
def fakes() -> Fakes:
    fakes = Fakes()
    fakes.runs.answer = (RunStatus.SUCCESS, RunResult(response="ho"))
    return fakes


@pytest.fixture
def tokens(fakes: Fakes) -> FakeTokens:
    tokens = FakeTokens()
    fakes.services = replace(fakes.services, identity=Identity(FakeKeys(), tokens))
    return tokens


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
        {"Authorization": "Bearer rw_live_" + "x" * 8200},
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


@pytest.mark.usefixtures("tokens")
async def test_a_token_of_the_provider_opens_as_a_key_does(fakes: Fakes) -> None:
    async with calling(fakes, key=TOKEN) as client:
        answer = await client.post("/agent/invoke", json=ASK)
    assert answer.status_code == 200
    assert fakes.runs.principals[0].owner == Owner(tenant=TenantId("acme"), user=UserId("dora"))


@pytest.mark.usefixtures("tokens")
async def test_keys_open_beside_tokens(fakes: Fakes) -> None:
    async with calling(fakes) as client:
        assert (await client.post("/agent/invoke", json=ASK)).status_code == 200
    assert fakes.runs.principals[0].owner.user == "alice"


@pytest.mark.usefixtures("tokens")
@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer head.mallory.signature"},
        {"Authorization": f"Bearer {TOKEN}{'s' * 4200}"},
        {"Authorization": f"Bearer {TOKEN}", "x-api-key": KEY},
        {"Authorization": f"Basic {TOKEN}"},
        {"x-api-key": TOKEN},
    ],
)
async def test_a_token_that_does_not_fit_is_refused_as_a_key_is(fakes: Fakes, headers: dict[str, str]) -> None:
    async with calling(fakes, key=None) as client:
        answer = await client.post("/agent/invoke", json=ASK, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "head" not in answer.json()["detail"]
    assert fakes.runs.commands == []


async def test_while_the_providers_keys_cannot_be_had_nobody_is_told_that_a_token_is_bad(
    fakes: Fakes, tokens: FakeTokens
) -> None:
    tokens.refusal = Unavailable("the provider's keys cannot be had now")
    async with calling(fakes, key="head.eve.signature") as client:
        answer = await client.post("/agent/invoke", json=ASK)
        assert (await client.get("/agent/agents", headers={"Authorization": f"Bearer {KEY}"})).status_code == 200
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert answer.headers["retry-after"] == "5"


@pytest.mark.usefixtures("tokens")
async def test_a_gateway_with_a_token_names_the_user_it_calls_for(fakes: Fakes) -> None:
    async with calling(fakes, key=BACKEND_TOKEN) as client:
        answer = await client.post("/agent/invoke", json=ASK, headers={"X-On-Behalf-Of": "carol"})
    assert answer.status_code == 200
    (principal,) = fakes.runs.principals
    assert principal.owner == Owner(tenant=TenantId("acme"), user=UserId("carol"))
    assert principal.scopes == USER_SCOPES


@pytest.mark.usefixtures("tokens")
async def test_a_users_token_cannot_speak_for_another(fakes: Fakes) -> None:
    async with calling(fakes, key=TOKEN) as client:
        answer = await client.post("/agent/invoke", json=ASK, headers={"X-On-Behalf-Of": "carol"})
    assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")


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
