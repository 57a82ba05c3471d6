import shlex
from dataclasses import replace
from pathlib import Path

from roadworthy.cli.greeting import Greeting, url

FIRST = Greeting(
    host="127.0.0.1",
    port=8000,
    agents=("demo", "assistant"),
    data_dir=Path("/data"),
    auth=True,
    admin_key="rw_live_" + "k" * 50,
)


def _curl(greeting: Greeting) -> list[str]:
    (line,) = [line for line in greeting.lines() if line.startswith("curl ")]
    return shlex.split(line)


def test_the_first_start_shows_the_key_alone_on_its_line() -> None:
    assert FIRST.admin_key in list(FIRST.lines())


def test_the_curl_line_of_the_first_start_can_be_pasted() -> None:
    words = _curl(FIRST)
    assert words[:3] == ["curl", "-sS", "http://127.0.0.1:8000/agent/invoke"]
    assert f"Authorization: Bearer {FIRST.admin_key}" in words
    assert words[-1] == '{"message": "How do I cancel a run?"}'


def test_a_later_start_leaves_the_key_to_the_shell() -> None:
    later = replace(FIRST, admin_key=None)
    assert "Authorization: Bearer $KEY" in _curl(later)
    assert any("roadworthy keys create --user NAME" in line for line in later.lines())
    assert '-H "Authorization: Bearer $KEY"' in "\n".join(later.lines())


def test_without_auth_no_key_is_asked_for() -> None:
    words = _curl(replace(FIRST, auth=False, admin_key=None))
    assert not any("Authorization" in word for word in words)


def test_an_address_that_means_all_is_called_by_one_that_can_be_reached() -> None:
    assert "http://127.0.0.1:80/agent/invoke" in _curl(replace(FIRST, host="0.0.0.0", port=80))
    assert "http://[::1]:8000/agent/invoke" in _curl(replace(FIRST, host="::"))


def test_an_ipv6_address_is_written_in_brackets() -> None:
    assert url("::1", 8000) == "http://[::1]:8000"
