"""The operator's price file: TOML tables of USD per million tokens, keyed by ``provider:model``.

``book`` asks it before the catalogue. The format is described in ``docs/prices.md``.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path

from roadworthy.domain.errors import ConfigError
from roadworthy.domain.money import nanos_of
from roadworthy.domain.usage import Tokens
from roadworthy.ports.prices import Price
from roadworthy.pricing.counts import consistent

_MILLION = 1_000_000
_WILDCARDS = frozenset("*?[")
_HASH_DIGITS = 8
# USD per million tokens. Far above every price there is; more would not fit into the ledger's 64-bit costs.
_HIGHEST_RATE = 1_000_000
_NEEDED = ("input", "output")
_OPTIONAL = ("cache_read", "cache_write", "cache_write_1h", "reasoning")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """USD per million tokens of each kind; a token costs the rate of the narrowest kind that it is of."""

    input: Decimal
    output: Decimal
    cache_read: Decimal
    cache_write: Decimal
    cache_write_1h: Decimal
    reasoning: Decimal

    def cost_nanos(self, tokens: Tokens) -> int:
        """What ``tokens`` cost."""
        tokens = consistent(tokens)
        return nanos_of(
            (
                self.input * (tokens.input - tokens.cache_read - tokens.cache_write)
                + self.cache_read * tokens.cache_read
                + self.cache_write * (tokens.cache_write - tokens.cache_write_1h)
                + self.cache_write_1h * tokens.cache_write_1h
                + self.output * (tokens.output - tokens.reasoning)
                + self.reasoning * tokens.reasoning
            )
            / _MILLION
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceFile:
    """See ``ports.prices.PriceBook``. ``patterns`` are tried in the file's order, after ``exact``."""

    version: str
    exact: Mapping[str, Rates]
    patterns: Mapping[str, Rates]

    def price(self, provider: str, model: str, tokens: Tokens, at: datetime) -> Price | None:  # noqa: ARG002 -- the port's signature; the file has one price for all times
        """See ``ports.prices.PriceBook.price``."""
        rates = self._find(f"{provider}:{model}".lower())
        return None if rates is None else Price(cost_nanos=rates.cost_nanos(tokens), version=self.version)

    def _find(self, name: str) -> Rates | None:
        if (found := self.exact.get(name)) is not None:
            return found
        return next((rates for pattern, rates in self.patterns.items() if fnmatchcase(name, pattern)), None)


def read_price_file(path: Path) -> PriceFile:
    """The prices in a file.

    Raises:
        ConfigError: it cannot be read, or an entry is wrong; names the file, the table and the key.
    """
    try:
        raw = path.read_bytes()
        document: Mapping[str, object] = tomllib.loads(raw.decode(), parse_float=Decimal)
    except OSError as error:
        raise ConfigError(f"the price file {path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # not UTF-8, or not TOML
        raise ConfigError(f"the price file {path} is not TOML: {error}") from error
    entries = {name.lower(): _rates(path, name, table) for name, table in document.items()}
    return PriceFile(
        version=f"{path.name} {sha256(raw).hexdigest()[:_HASH_DIGITS]}",
        exact={name: rates for name, rates in entries.items() if not _WILDCARDS & set(name)},
        patterns={name: rates for name, rates in entries.items() if _WILDCARDS & set(name)},
    )


def _rates(path: Path, name: str, table: object) -> Rates:
    where = f"the price file {path}, table [{name!r}]"
    if not isinstance(table, dict) or ":" not in name:
        raise ConfigError(f'{where}: prices stand in tables named after a model, as in ["openai:gpt-5"]')
    given: dict[str, Decimal] = {}
    for key, value in table.items():
        if key not in (*_NEEDED, *_OPTIONAL):
            raise ConfigError(f"{where}: there is no key {key}, only {', '.join((*_NEEDED, *_OPTIONAL))}")
        given[key] = _rate(where, key, value)
    for key in _NEEDED:
        if key not in given:
            raise ConfigError(f"{where}: the key {key} is missing")
    cache_write = given.get("cache_write", given["input"])
    return Rates(
        input=given["input"],
        output=given["output"],
        cache_read=given.get("cache_read", given["input"]),
        cache_write=cache_write,
        cache_write_1h=given.get("cache_write_1h", cache_write),
        reasoning=given.get("reasoning", given["output"]),
    )


def _rate(where: str, key: str, value: object) -> Decimal:
    # To Python a bool is a number too.
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        rate = Decimal(value)
        if rate.is_finite() and 0 <= rate <= _HIGHEST_RATE:
            return rate
    raise ConfigError(
        f"{where}: {key} is USD per million tokens, a number from 0 to {_HIGHEST_RATE:,}, not {value!s:.40}"
    )
