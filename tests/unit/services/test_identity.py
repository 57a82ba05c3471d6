"""Keys and tokens side by side: which text goes where."""

import pytest

from roadworthy.domain.errors import Unauthenticated
from roadworthy.domain.ids import TenantId, UserId
from roadworthy.domain.principal import USER_SCOPES, Owner, Principal
from roadworthy.services.identity import Identity
from roadworthy.services.keys import Keys

TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2ln"
KEY = "rw_live_" + "k" * 30


def principal(user: str) -> Principal:
    return Principal(owner=Owner(tenant=TenantId("default"), user=UserId(user)), scopes=USER_SCOPES)


class OneKey(Keys):
    def __init__(self) -> None:
        self.asked: list[str] = []

    async def authenticate(self, text: str) -> Principal:
        self.asked.append(text)
        if text != KEY:
            raise Unauthenticated("no key")
        return principal("of-the-key")


class OneToken:
    def __init__(self) -> None:
        self.asked: list[str] = []

    async def verify(self, token: str) -> Principal:
        self.asked.append(token)
        if token != TOKEN:
            raise Unauthenticated("no token")
        return principal("of-the-token")


@pytest.fixture
def keys() -> OneKey:
    return OneKey()


@pytest.fixture
def tokens() -> OneToken:
    return OneToken()


async def test_a_key_opens_with_and_without_a_provider(keys: OneKey, tokens: OneToken) -> None:
    for identity in (Identity(keys, None), Identity(keys, tokens)):
        assert (await identity.authenticate(KEY)).owner.user == "of-the-key"
    assert tokens.asked == []


async def test_a_token_opens_and_no_key_is_looked_up(keys: OneKey, tokens: OneToken) -> None:
    assert (await Identity(keys, tokens).authenticate(TOKEN)).owner.user == "of-the-token"
    assert keys.asked == []


async def test_a_token_that_is_refused_is_not_tried_as_a_key(keys: OneKey, tokens: OneToken) -> None:
    with pytest.raises(Unauthenticated, match="no token"):
        await Identity(keys, tokens).authenticate(TOKEN + "x")
    assert keys.asked == []


async def test_without_a_provider_a_token_is_an_unknown_key(keys: OneKey) -> None:
    with pytest.raises(Unauthenticated, match="no key"):
        await Identity(keys, None).authenticate(TOKEN)


@pytest.mark.parametrize("text", ["", "a.b", "a.b.c.d", ".b.c", "a..c", "a.b.c=", "a.b.c\n", "rw_live_a.b.c", "é.b.c"])
async def test_what_is_neither_is_an_unknown_key(keys: OneKey, tokens: OneToken, text: str) -> None:
    with pytest.raises(Unauthenticated, match="no key"):
        await Identity(keys, tokens).authenticate(text)
    assert tokens.asked == []
