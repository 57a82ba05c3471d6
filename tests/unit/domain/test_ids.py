"""Ids that clients may choose: what is allowed, and that the refusal is a clear one."""

from collections.abc import Callable

import pytest

from roadworthy.domain.errors import InvalidRequest
from roadworthy.domain.ids import (
    new_id,
    parse_agent_name,
    parse_run_id,
    parse_tenant_id,
    parse_thread_id,
    parse_user_id,
)


@pytest.mark.parametrize("text", ["a", "default", "A.b_c:d-9", "x" * 128])
def test_a_thread_id_may_be_any_plain_name(text: str) -> None:
    assert parse_thread_id(text) == text


@pytest.mark.parametrize("text", ["", "x" * 129, "a b", "a/b", "../x", "ä", "a\n", "a\0", "٣"])
@pytest.mark.parametrize("parse", [parse_thread_id, parse_user_id, parse_tenant_id, parse_agent_name])
def test_anything_else_is_refused_with_the_alphabet(text: str, parse: Callable[[str], str]) -> None:
    with pytest.raises(InvalidRequest, match=r"must be 1 to \d+ characters"):
        parse(text)


@pytest.mark.parametrize("text", ["ann@example.com", "auth0|12", "a+b"])
def test_a_user_may_look_like_an_address_or_a_subject(text: str) -> None:
    assert parse_user_id(text) == text


def test_a_new_id_is_a_run_id() -> None:
    assert parse_run_id(new_id()) is not None


@pytest.mark.parametrize("text", ["", "x", "0" * 31, "0" * 33, "G" * 32, "0" * 31 + "\n"])
def test_what_the_server_never_makes_is_no_run_id(text: str) -> None:
    assert parse_run_id(text) is None
