"""The operator's price file: what it may say, what it is worth, and what is refused."""

from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest

from roadworthy.domain.errors import ConfigError
from roadworthy.domain.usage import Tokens
from roadworthy.pricing.book import open_price_book
from roadworthy.pricing.price_file import read_price_file

AT = datetime(2026, 11, 1, tzinfo=UTC)
# 3,000 tokens are new, 4,000 read from the cache, 2,000 written for five minutes, 1,000 for an hour; 400 are thoughts.
ALL = Tokens(input=10_000, output=1_000, cache_read=4_000, cache_write=3_000, cache_write_1h=1_000, reasoning=400)


def written(folder: Path, text: str) -> Path:
    path = folder / "prices.toml"
    path.write_text(text)
    return path


def cost(path: Path, provider: str, model: str, tokens: Tokens = ALL) -> int | None:
    price = read_price_file(path).price(provider, model, tokens, AT)
    return None if price is None else price.cost_nanos


def test_every_kind_has_its_rate(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        ["acme:big"]
        input = 2
        output = 10
        cache_read = 0.1
        cache_write = 2.5
        cache_write_1h = 4
        reasoning = 12
        """,
    )
    assert cost(path, "acme", "big") == 6_000_000 + 400_000 + 5_000_000 + 4_000_000 + 6_000_000 + 4_800_000


def test_a_rate_that_is_not_given_is_that_of_the_wider_kind(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        ["acme:plain"]
        input = 2
        output = 10
        ["acme:caching"]
        input = 2
        output = 10
        cache_write = 3
        """,
    )
    assert cost(path, "acme", "plain") == 20_000_000 + 10_000_000
    assert cost(path, "acme", "caching") == 14_000_000 + 9_000_000 + 10_000_000


def test_the_highest_rate_is_a_dollar_for_each_token(tmp_path: Path) -> None:
    path = written(tmp_path, '["a:b"]\ninput = 1_000_000\noutput = 0\n')
    assert cost(path, "a", "b", Tokens(input=2_000_000)) == 2_000_000 * 1_000_000_000


def test_rates_are_exact(tmp_path: Path) -> None:
    path = written(tmp_path, '["a:b"]\ninput = 0.3\noutput = 0.001\n')
    assert cost(path, "a", "b", Tokens(input=1, output=1)) == 300 + 1


def test_an_exact_name_comes_before_patterns_and_these_in_their_order(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        ["ollama:llama*"]
        input = 1
        output = 0
        ["*:*"]
        input = 2
        output = 0
        ["ollama:*"]
        input = 3
        output = 0
        ["ollama:llama3:8B"]
        input = 4
        output = 0
        """,
    )
    million = Tokens(input=1_000_000)
    costs = [
        cost(path, *name, million)
        for name in (("ollama", "llama3:8b"), ("ollama", "Llama3"), ("ollama", "qwen"), ("", ""))
    ]
    assert costs == [4_000_000_000, 1_000_000_000, 2_000_000_000, 2_000_000_000]


def test_a_model_that_it_does_not_name_has_no_price(tmp_path: Path) -> None:
    assert cost(written(tmp_path, '["a:b"]\ninput = 1\noutput = 1\n'), "a", "c") is None
    assert cost(written(tmp_path, ""), "a", "b") is None


def test_its_version_changes_with_its_content(tmp_path: Path) -> None:
    path = written(tmp_path, '["a:b"]\ninput = 1\noutput = 1\n')
    price = read_price_file(path).price("a", "b", ALL, AT)
    assert price is not None
    assert price.version == f"prices.toml {sha256(path.read_bytes()).hexdigest()[:8]}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('["a:b"]\ninput = 1\n', ("a:b", "output")),
        ('["a:b"]\ninput = "1"\noutput = 1\n', ("a:b", "input")),
        ('["a:b"]\ninput = true\noutput = 1\n', ("a:b", "input")),
        ('["a:b"]\ninput = -1\noutput = 1\n', ("a:b", "input")),
        ('["a:b"]\ninput = 1_000_001\noutput = 1\n', ("a:b", "input", "1,000,000")),
        ('["a:b"]\ninput = 1e400\noutput = 1\n', ("a:b", "input")),
        ('["a:b"]\ninput = nan\noutput = 1\n', ("a:b", "input")),
        ('["a:b"]\ninput = 1\noutput = inf\n', ("a:b", "output")),
        ('["a:b"]\ninput = 1\noutput = 1\ncached = 1\n', ("a:b", "cached")),
        ("[a.b]\ninput = 1\noutput = 1\n", ("'a'", "openai:gpt-5")),
        ('"a:b" = 1\n', ("a:b", "tables")),
        ('["a:b"]\n["a:b"]\n', ("TOML",)),
        ("[\n", ("TOML",)),
    ],
)
def test_a_wrong_entry_is_named(tmp_path: Path, text: str, said: tuple[str, ...]) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_price_file(path)
    for part in (str(path), *said):
        assert part in caught.value.message


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    torn = tmp_path / "torn.toml"
    torn.write_bytes(b"\xff")
    for path in (tmp_path / "missing.toml", tmp_path, torn):
        with pytest.raises(ConfigError, match=path.name):
            read_price_file(path)


def test_the_book_asks_the_file_before_the_catalogue(tmp_path: Path) -> None:
    path = written(tmp_path, '["openai:gpt-5"]\ninput = 1\noutput = 1\n["roadworthy:*"]\ninput = 7\noutput = 0\n')
    book, tokens = open_price_book(path), Tokens(input=1_000)
    own, known = book.price("openai", "gpt-5", tokens, AT), book.price("openai", "gpt-5-mini", tokens, AT)
    assert own is not None
    assert (own.cost_nanos, own.version.split()[0]) == (1_000_000, "prices.toml")
    assert known is not None
    assert (known.cost_nanos, known.version.split()[0]) == (250_000, "genai-prices")
    assert book.price("ollama", "llama3", tokens, AT) is None


def test_without_a_file_the_book_is_the_catalogue() -> None:
    price = open_price_book(None).price("openai", "gpt-5", Tokens(input=1_000), AT)
    assert price is not None
    assert price.cost_nanos == 1_250_000
