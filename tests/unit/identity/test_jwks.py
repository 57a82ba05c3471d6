"""How often the provider is asked, and what holds while it is away."""

import asyncio

import pytest
from structlog.testing import capture_logs

from roadworthy.domain.errors import Unavailable
from roadworthy.identity.documents import Unusable
from roadworthy.identity.jwks import IssuerKeys
from roadworthy.identity.key_set import KeySet, parse_key_set
from tests.support.identity_provider import ManualClock, signing_key


class Provider:
    """Publishes keys, is away, or holds its answer back."""

    def __init__(self, *kids: str) -> None:
        self.publish(*kids)
        self.looks = 0
        self.away = False
        self.came = asyncio.Event()
        self.answering = asyncio.Event()
        self.answering.set()

    def publish(self, *kids: str) -> None:
        self.keys = parse_key_set({"keys": [signing_key(kid, "ES256").jwk() for kid in kids]}, ["ES256"])

    async def fetch(self) -> KeySet:
        self.looks += 1
        self.came.set()
        await self.answering.wait()
        if self.away:
            raise Unusable("the provider is away")
        return self.keys


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def provider() -> Provider:
    return Provider("a")


@pytest.fixture
def keys(provider: Provider, clock: ManualClock) -> IssuerKeys:
    return IssuerKeys(provider.fetch, clock)


async def knows(keys: IssuerKeys, kid: str) -> bool:
    return await keys.find(kid, "ES256") is not None


async def test_keys_are_asked_for_once_an_hour(keys: IssuerKeys, provider: Provider, clock: ManualClock) -> None:
    assert await knows(keys, "a")
    clock.advance(minutes=59)
    assert await knows(keys, "a")
    assert provider.looks == 1
    clock.advance(minutes=2)
    assert await knows(keys, "a")
    assert provider.looks == 2


async def test_a_new_key_is_found_when_a_token_names_it(
    keys: IssuerKeys, provider: Provider, clock: ManualClock
) -> None:
    assert await knows(keys, "a")
    clock.advance(minutes=1)
    provider.publish("a", "b")
    assert await knows(keys, "b")
    assert provider.looks == 2


async def test_a_withdrawn_key_counts_for_an_hour_at_most(
    keys: IssuerKeys, provider: Provider, clock: ManualClock
) -> None:
    assert await knows(keys, "a")
    provider.publish("b")
    clock.advance(minutes=61)
    assert not await knows(keys, "a")


async def test_a_storm_of_unknown_keys_makes_one_look_in_a_cool_down(
    keys: IssuerKeys, provider: Provider, clock: ManualClock
) -> None:
    assert await knows(keys, "a")
    for _ in range(3):
        clock.advance(seconds=31)
        before = provider.looks
        found = await asyncio.gather(*(knows(keys, f"made-up-{number}") for number in range(50)))
        assert not any(found)
        clock.advance(seconds=29)
        assert not await knows(keys, "made-up")
        assert provider.looks == before + 1


async def test_first_requests_share_one_look(keys: IssuerKeys, provider: Provider) -> None:
    provider.answering.clear()
    async with asyncio.TaskGroup() as group, asyncio.timeout(10):
        asking = [group.create_task(knows(keys, "a")) for _ in range(20)]
        await provider.came.wait()
        provider.answering.set()
        assert await asyncio.gather(*asking) == [True] * 20
    assert provider.looks == 1


async def test_a_request_that_is_given_up_leaves_the_others_their_look(
    keys: IssuerKeys, provider: Provider, clock: ManualClock
) -> None:
    provider.answering.clear()
    async with asyncio.TaskGroup() as group, asyncio.timeout(10):
        first = group.create_task(knows(keys, "a"))
        await provider.came.wait()
        first.cancel()
    provider.answering.set()
    clock.advance(seconds=30)
    assert await knows(keys, "a")


async def test_without_any_key_nobody_can_be_known(keys: IssuerKeys, provider: Provider, clock: ManualClock) -> None:
    provider.away = True
    with capture_logs() as logs:
        for _ in range(5):
            with pytest.raises(Unavailable) as caught:
                await knows(keys, "a")
            assert caught.value.retry_after.total_seconds() == 30
    assert provider.looks == 1, "a failed look cools down too"
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("issuer_keys_unavailable", "warning")]
    provider.away = False
    clock.advance(seconds=30)
    assert await knows(keys, "a")


async def test_last_known_keys_are_used_while_the_provider_is_away(
    keys: IssuerKeys, provider: Provider, clock: ManualClock
) -> None:
    assert await knows(keys, "a")
    provider.away = True
    clock.advance(days=1)
    assert await knows(keys, "a")
    assert not await knows(keys, "b")
    assert provider.looks == 2
    provider.away = False
    provider.publish("b")
    clock.advance(seconds=30)
    assert await knows(keys, "b")


async def test_only_one_request_waits_for_a_provider_that_failed_before(
    keys: IssuerKeys, provider: Provider, clock: ManualClock
) -> None:
    assert await knows(keys, "a")
    provider.away = True
    clock.advance(hours=2)
    assert await knows(keys, "a")
    clock.advance(seconds=30)
    provider.came.clear()
    provider.answering.clear()
    async with asyncio.TaskGroup() as group, asyncio.timeout(10):
        waiting = group.create_task(knows(keys, "a"))
        await provider.came.wait()
        assert await knows(keys, "a")
        assert not waiting.done()
        provider.answering.set()
        assert await waiting


async def test_an_issuer_that_publishes_no_usable_key_any_more_is_believed(
    keys: IssuerKeys, provider: Provider, clock: ManualClock
) -> None:
    assert await knows(keys, "a")
    provider.publish()
    clock.advance(hours=2)
    with pytest.raises(Unavailable):
        await knows(keys, "a")
