import pytest

from roadworthy.domain.errors import InvalidRequest
from roadworthy.domain.money import parse_usd, usd_text


@pytest.mark.parametrize(
    ("nanos", "text"),
    [
        (0, "$0.00"),
        (1, "$0.000001"),
        (4_200_000, "$0.0042"),
        (500_000_000, "$0.50"),
        (4_997_394_000, "$4.997394"),
        (5_000_000_000, "$5.00"),
        (999_999_999_000, "$999.999999"),
        (1_000_000_000_000, "$1000.00"),
        (1_234_567_800_000, "$1234.57"),
        (-2_500_000, "-$0.0025"),
    ],
)
def test_an_amount_is_shown_as_exactly_as_a_person_needs_it(nanos: int, text: str) -> None:
    assert usd_text(nanos) == text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("five", "no amount of USD: write it as in 12.50"),
        ("-1", "from 0 to a billion"),
        ("1000000001", "from 0 to a billion"),
        ("NaN", "from 0 to a billion"),
        ("0.0000000001", "finer than a billionth of a dollar"),
    ],
)
def test_what_is_no_amount_is_told_why(text: str, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        parse_usd(text)


def test_an_amount_is_exact() -> None:
    assert (parse_usd(" $12.50 "), parse_usd("0.000000001"), parse_usd("1e9")) == (12_500_000_000, 1, 10**18)
