"""The catalogue against amounts worked out by hand from what the providers publish.

A price of P USD per million tokens is P x 1000 nano-USD per token. Sources, all per million tokens of the standard
tier: "Pricing" of the Claude Developer Platform's docs; "Pricing" of OpenAI's API docs; "Gemini Developer API pricing"
of Google AI for Developers; "Amazon Bedrock pricing".
"""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadworthy.agents.models import DEFAULT_MODEL
from roadworthy.domain.usage import Tokens
from roadworthy.pricing.catalogue import Catalogue

AT = datetime(2026, 11, 1, tzinfo=UTC)
CATALOGUE = Catalogue()

PLAIN = Tokens(input=1_000, output=500)
# 3,000 tokens are new, 4,000 read from the cache, 2,000 written for five minutes, 1,000 for an hour.
CACHED = Tokens(input=10_000, output=100, cache_read=4_000, cache_write=3_000, cache_write_1h=1_000)
THOUGHT = Tokens(output=1_000, reasoning=800)


def cost(provider: str, model: str, tokens: Tokens, at: datetime = AT) -> int | None:
    price = CATALOGUE.price(provider, model, tokens, at)
    return None if price is None else price.cost_nanos


@pytest.mark.parametrize(
    ("provider", "model", "nanos"),
    [
        ("anthropic", "claude-opus-5-5", 4_000_000 + 10_000_000),  # $4 in, $20 out
        ("anthropic", "claude-sonnet-5-5", 2_000_000 + 5_000_000),  # $2, $10
        ("anthropic", "claude-haiku-5-5", 100_000 + 250_000),  # $0.10, $0.50
        ("anthropic", "claude-sonnet-5", 2_000_000 + 5_000_000),  # $2, $10
        ("anthropic", "claude-opus-4-5-20251101", 5_000_000 + 12_500_000),  # $5, $25
        ("anthropic", "claude-sonnet-4-5-20250929", 3_000_000 + 7_500_000),  # $3, $15
        ("anthropic", "claude-haiku-4-5", 1_000_000 + 2_500_000),  # $1, $5
        ("openai", "gpt-6-sol", 2_000_000 + 5_000_000),  # $2, $10
        ("openai", "gpt-6-luna", 100_000 + 250_000),  # $0.10, $0.50
        ("openai", "gpt-5.4", 2_500_000 + 7_500_000),  # $2.50, $15
        ("openai", "gpt-5", 1_250_000 + 5_000_000),  # $1.25, $10
        ("openai", "gpt-5-mini-2025-08-07", 250_000 + 1_000_000),  # $0.25, $2
        ("google_genai", "gemini-3.1-pro-preview", 2_000_000 + 6_000_000),  # $2, $12
        ("google_genai", "gemini-3.8-flash", 750_000 + 1_875_000),  # $0.75, $3.75 until the end of 2026
        ("google_genai", "models/gemini-2.5-pro", 1_250_000 + 5_000_000),  # $1.25, $10
        ("google_vertexai", "gemini-2.5-flash", 300_000 + 1_250_000),  # $0.30, $2.50
        ("google_vertexai", "claude-sonnet-4-5@20250929", 3_000_000 + 7_500_000),  # as its maker's
        ("azure", "gpt-5", 1_250_000 + 5_000_000),  # as its maker's
        # In one region $3.30 and $16.50: a tenth more than anywhere.
        ("amazon_bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", 3_300_000 + 8_250_000),
    ],
)
def test_input_and_output_cost_what_is_published(provider: str, model: str, nanos: int) -> None:
    assert cost(provider, model, PLAIN) == nanos


@pytest.mark.parametrize(
    ("tokens", "nanos"),
    [
        (Tokens(input=1_000, cache_read=1_000), 100_000),  # $0.10
        (Tokens(input=1_000, cache_write=1_000), 2_500_000),  # for 5 minutes: $2.50
        (Tokens(input=1_000, cache_write=1_000, cache_write_1h=1_000), 4_000_000),  # for an hour: $4
        (THOUGHT, 10_000_000),  # thinking is output: $10
        (Tokens(input=900_000, output=1_000), 1_800_000_000 + 10_000_000),  # a long prompt costs no more per token
        (Tokens(), 0),
    ],
)
def test_the_assistants_default_model_is_priced_in_all_kinds(tokens: Tokens, nanos: int) -> None:
    provider, _, model = DEFAULT_MODEL.partition(":")
    assert cost(provider, model, tokens) == nanos


@pytest.mark.parametrize(
    ("provider", "model", "nanos"),
    [
        # new, read, written for 5 minutes, for an hour, output
        ("anthropic", "claude-opus-5-5", 12_000_000 + 800_000 + 10_000_000 + 8_000_000 + 2_000_000),  # $4 .20 5 8 20
        ("anthropic", "claude-sonnet-5-5", 6_000_000 + 400_000 + 5_000_000 + 4_000_000 + 1_000_000),  # $2 .10 2.50 4 10
        ("anthropic", "claude-haiku-5-5", 300_000 + 40_000 + 250_000 + 200_000 + 50_000),  # $.10 .01 .125 .20 .50
        ("anthropic", "claude-sonnet-5", 6_000_000 + 800_000 + 5_000_000 + 4_000_000 + 1_000_000),  # $2 .20 2.50 4 10
        ("anthropic", "claude-opus-4-5", 15_000_000 + 2_000_000 + 12_500_000 + 10_000_000 + 2_500_000),  # $5 .5 6.25 10
        # One price for writing ($2.50), so an hour costs the same.
        ("openai", "gpt-6-sol", 6_000_000 + 800_000 + 7_500_000 + 1_000_000),  # $2 .20 2.50 10
        # Writing costs nothing of its own, so it costs what input does.
        ("openai", "gpt-5", 3_750_000 + 3_750_000 + 500_000 + 1_000_000),  # $1.25 .125 10
        ("google_genai", "gemini-2.5-flash", 1_800_000 + 120_000 + 250_000),  # $.30 .03 2.50
    ],
)
def test_cached_tokens_cost_their_own_prices(provider: str, model: str, nanos: int) -> None:
    assert cost(provider, model, CACHED) == nanos


@pytest.mark.parametrize(
    ("provider", "model"), [("openai", "gpt-5"), ("openai", "gpt-6-sol"), ("google_genai", "gemini-2.5-pro")]
)
def test_reasoning_is_paid_once_as_output(provider: str, model: str) -> None:
    assert cost(provider, model, THOUGHT) == 10_000_000  # $10 for all three


@pytest.mark.parametrize(
    ("provider", "model", "tokens", "nanos"),
    [
        ("anthropic", "claude-sonnet-4-5", Tokens(input=200_000, output=1_000), 600_000_000 + 15_000_000),
        # Over 200,000 tokens, cached ones included: $6 in, $0.60 read, $7.50 and $12 written, $22.50 out.
        (
            "anthropic",
            "claude-sonnet-4-5",
            Tokens(input=300_000, output=1_000, cache_read=100_000, cache_write=50_000, cache_write_1h=20_000),
            900_000_000 + 60_000_000 + 225_000_000 + 240_000_000 + 22_500_000,
        ),
        ("anthropic", "claude-haiku-5-5", Tokens(input=100_000, output=1_000), 10_000_000 + 500_000),
        # Over 100,000 tokens: $0.50 in, $2.50 out.
        ("anthropic", "claude-haiku-5-5", Tokens(input=100_001, output=1_000), 50_000_500 + 2_500_000),
        # Over 272,000 tokens: $4 in, $15 out.
        ("openai", "gpt-6-sol", Tokens(input=300_000, output=1_000), 1_200_000_000 + 15_000_000),
        # Over 200,000 tokens: $2.50 in, $15 out.
        ("google_genai", "gemini-2.5-pro", Tokens(input=300_000, output=1_000), 750_000_000 + 15_000_000),
        # Over 200,000 tokens: $4 in, $0.40 read, $18 out.
        (
            "google_genai",
            "gemini-3.1-pro-preview",
            Tokens(input=250_000, output=1_000, cache_read=50_000),
            800_000_000 + 20_000_000 + 18_000_000,
        ),
    ],
)
def test_a_long_prompt_costs_more_where_its_provider_says_so(
    provider: str, model: str, tokens: Tokens, nanos: int
) -> None:
    assert cost(provider, model, tokens) == nanos


def test_a_price_is_that_of_its_day() -> None:
    # From 2027 on: $1.50 in, $7.50 out.
    assert cost("google_genai", "gemini-3.8-flash", PLAIN, datetime(2027, 2, 1, tzinfo=UTC)) == 1_500_000 + 3_750_000


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("", ""),
        ("anthropic", ""),
        ("anthropic", "claude-of-tomorrow"),
        ("openai", "llama-3.3-70b"),
        ("openai", "claude-sonnet-5-5"),
        ("openai", "ft:gpt-5:acme::1"),
        ("openai", "whisper-1"),
        ("ollama", "gpt-5"),
        ("huggingface", "deepseek-ai/DeepSeek-V3"),
        ("somebody", "gpt-5"),
    ],
)
def test_what_is_not_known_has_no_price(provider: str, model: str) -> None:
    assert cost(provider, model, PLAIN) is None


def test_the_demo_is_free() -> None:
    assert cost("roadworthy", "extractive", PLAIN) == 0


def test_a_price_names_its_list() -> None:
    price = CATALOGUE.price("openai", "gpt-5", PLAIN, AT)
    assert price is not None
    assert price.version.startswith("genai-prices ")


def test_parts_larger_than_their_whole_are_paid_in_full() -> None:
    torn = Tokens(input=1, output=1, cache_read=1_000, cache_write_1h=1_000, reasoning=1_000)
    whole = Tokens(
        input=2_000, output=1_000, cache_read=1_000, cache_write=1_000, cache_write_1h=1_000, reasoning=1_000
    )
    assert cost("anthropic", "claude-sonnet-5-5", torn) == cost("anthropic", "claude-sonnet-5-5", whole) == 14_100_000


COUNTS = st.integers(min_value=-5, max_value=2_000_000)


@given(
    model=st.sampled_from(
        [("anthropic", "claude-sonnet-4-5"), ("openai", "gpt-5"), ("google_genai", "gemini-2.5-pro"), ("groq", "x")]
    ),
    tokens=st.builds(
        Tokens,
        input=COUNTS,
        output=COUNTS,
        cache_read=COUNTS,
        cache_write=COUNTS,
        cache_write_1h=COUNTS,
        reasoning=COUNTS,
    ),
)
def test_no_counts_break_it_or_earn_money(model: tuple[str, str], tokens: Tokens) -> None:
    assert (cost(*model, tokens) or 0) >= 0
