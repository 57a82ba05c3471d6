"""Amounts of money: integers of nano-USD inside, USD at the edges.

A nano-USD is 10⁻⁹ dollars: a token of the cheapest model is some tens of them, so sums are exact.
"""

from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal, InvalidOperation

from roadworthy.domain.errors import InvalidRequest

NANOS = 1_000_000_000
_MOST_USD = 1_000_000_000
_ROUND_FROM_USD = 1000


def parse_usd(text: str, *, field: str | None = None) -> int:
    """Nano-USD of an amount that a person wrote, as in ``12.50``.

    Raises:
        InvalidRequest: it is no number, negative, more than a billion, or finer than a nano-USD.
    """
    try:
        amount = Decimal(text.strip().removeprefix("$"))
    except InvalidOperation:
        raise InvalidRequest(f"{text!r} is no amount of USD: write it as in 12.50", field=field) from None
    if not amount.is_finite() or not 0 <= amount <= _MOST_USD:
        raise InvalidRequest(f"{text!r} is no amount of USD from 0 to a billion", field=field)
    if (amount * NANOS) % 1:
        raise InvalidRequest(f"{text!r} is finer than a billionth of a dollar, which is the least", field=field)
    return int(amount * NANOS)


def nanos_of(usd: Decimal) -> int:
    """The nearest number of nano-USD."""
    return int((usd * NANOS).to_integral_value(ROUND_HALF_EVEN))


def usd(nanos: int) -> float:
    """USD for a JSON document."""
    return nanos / NANOS


def usd_text(nanos: int) -> str:
    """USD for a person, as in ``$12.50`` and ``$0.0042``: exact to a millionth below $1000, else to a cent."""
    amount = Decimal(nanos) / NANOS
    places = Decimal("0.000001") if abs(amount) < _ROUND_FROM_USD else Decimal("0.01")
    text = f"{amount.quantize(places, ROUND_CEILING):f}".rstrip("0")
    text += "0" * max(0, 2 - len(text.partition(".")[2]))
    return f"${text}" if nanos >= 0 else f"-${text[1:]}"
