"""The demo agent is free, and known to be: each of its calls has a price, and it is nothing."""

from pathlib import Path

from roadworthy.agents import demo
from roadworthy.domain.usage import ModelCall
from roadworthy.pricing.book import open_price_book
from tests.conformance.runtime.playing import AGENT, Bench, a_run, play


async def test_every_call_of_the_demo_costs_nothing(tmp_path: Path) -> None:
    async with Bench(folder=tmp_path).serve(demo.build()) as runtime:
        played = await play(runtime, a_run(runtime.message_input(AGENT, "How do I cancel a run?")))
    calls = played.of(ModelCall)
    assert {(call.provider, call.model, call.estimated) for call in calls} == {("roadworthy", "roadworthy-demo", False)}
    prices = [open_price_book(None).price(c.provider, c.model, c.tokens, c.started_at) for c in calls]
    assert [price is not None and price.cost_nanos for price in prices] == [0, 0]


async def test_the_demo_says_that_it_costs_nothing(tmp_path: Path) -> None:
    async with Bench(folder=tmp_path).serve(demo.build()) as runtime:
        played = await play(runtime, a_run(runtime.message_input(AGENT, "What are you?")))
    assert "I cost nothing" in played.completed.response
