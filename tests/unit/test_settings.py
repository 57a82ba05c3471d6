from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from roadworthy.settings import Settings, is_loopback


def _settings(monkeypatch: pytest.MonkeyPatch, **environment: str) -> Settings:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Settings()


def test_names_known_from_other_services_keep_their_plain_form(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _settings(
        monkeypatch,
        API_VERSION="v7",
        MAX_CONCURRENT_REQUESTS="3",
        REQUEST_TIMEOUT="0.5",
        ANTHROPIC_API_KEY="sk-ant-1",
        TAVILY_API_KEY="tvly-1",
    )
    assert settings.api_version == "v7"
    assert settings.max_concurrent_requests == 3
    assert settings.request_timeout == timedelta(milliseconds=500)
    assert settings.anthropic_api_key == SecretStr("sk-ant-1")
    assert settings.tavily_api_key == SecretStr("tvly-1")


def test_everything_else_has_our_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _settings(
        monkeypatch,
        ROADWORTHY_DATA_DIR="/data",
        ROADWORTHY_PORT="0",
        ROADWORTHY_CORS_ORIGINS="https://a.example, https://b.example,",
        ROADWORTHY_AUTH="false",
    )
    assert settings.data_dir == Path("/data")
    assert settings.port == 0
    assert settings.cors_origins == ("https://a.example", "https://b.example")
    assert settings.auth is False


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _settings(monkeypatch, ROADWORTHY_QUEUE_SIZE="", ANTHROPIC_API_KEY="", ROADWORTHY_HOST="")
    assert (settings.queue_size, settings.anthropic_api_key, settings.host) == (100, None, "127.0.0.1")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_CONCURRENT_REQUESTS", "0"),
        ("MAX_CONCURRENT_REQUESTS", "1.5"),
        ("REQUEST_TIMEOUT", "0"),
        ("REQUEST_TIMEOUT", "-1"),
        ("REQUEST_TIMEOUT", "soon"),
        ("REQUEST_TIMEOUT", "nan"),
        ("REQUEST_TIMEOUT", "inf"),
        ("ROADWORTHY_PORT", "65536"),
        ("ROADWORTHY_HOST", "  "),
        ("ROADWORTHY_KEY_PEPPER", "short"),
        ("ROADWORTHY_LOG_LEVEL", "loud"),
        ("ROADWORTHY_STORE_SCOPE", "world"),
        ("API_VERSION", "v 1"),
    ],
)
def test_a_value_out_of_range_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    with pytest.raises(ValidationError):
        _settings(monkeypatch, **{name: value})


def test_settings_cannot_be_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    settings: Any = _settings(monkeypatch)
    with pytest.raises(ValidationError):
        settings.port = 1


def test_secrets_do_not_show_in_the_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _settings(monkeypatch, ANTHROPIC_API_KEY="sk-ant-hidden", ROADWORTHY_KEY_PEPPER="hidden" * 4)
    assert "hidden" not in repr(settings)


def test_a_given_pepper_goes_before_the_folders() -> None:
    assert Settings(key_pepper=SecretStr("given-by-the-operator")).pepper(bytes) == b"given-by-the-operator"
    assert Settings(key_pepper=None).pepper(lambda: b"of the folder") == b"of the folder"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]"])
def test_a_loopback_address_may_go_without_auth(host: str) -> None:
    assert is_loopback(host)
    assert Settings(host=host, auth=False).auth is False


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.1.2", "example.org", "localhost.example.org", "127.0.0.1.example.org"]
)
def test_any_other_address_may_not(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(ValidationError, match="loopback"):
        Settings(host=host, auth=False)


PEPPER = "the-pepper-of-the-test"


@pytest.mark.parametrize(
    "url", ["postgresql://h/d", "postgres://u:p@h:5432/d?sslmode=require", "postgresql:///d?host=/s"]
)
def test_a_database_is_postgres(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    settings = _settings(monkeypatch, ROADWORTHY_DATABASE_URL=url, ROADWORTHY_KEY_PEPPER=PEPPER)
    assert settings.database_url == SecretStr(url)
    assert settings.auto_migrate is False


@pytest.mark.parametrize("url", ["mysql://h/d", "postgresql+psycopg://h/d", "sqlite:///d", "host=h dbname=d"])
def test_no_other_database_is_accepted(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    with pytest.raises(ValidationError, match="must begin with postgresql:// or postgres://"):
        _settings(monkeypatch, ROADWORTHY_DATABASE_URL=url, ROADWORTHY_KEY_PEPPER=PEPPER)


def test_postgres_needs_a_pepper_that_every_server_has(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="needs ROADWORTHY_KEY_PEPPER"):
        _settings(monkeypatch, ROADWORTHY_DATABASE_URL="postgresql://h/d")


@pytest.mark.parametrize(
    ("url", "hidden"),
    [
        ("postgresql://u:pass%40word@h/d", {"pass%40word", "pass@word"}),
        ("postgresql://u:pa:ss@word@h/d", {"pa:ss@word"}),
        ("postgresql://u@h/d?password=word%21s", {"word!s"}),
        ("postgresql://u@h/d", set[str]()),
    ],
)
def test_the_password_of_the_database_is_a_secret_by_itself(
    monkeypatch: pytest.MonkeyPatch, url: str, hidden: set[str]
) -> None:
    settings = _settings(monkeypatch, ROADWORTHY_DATABASE_URL=url, ROADWORTHY_KEY_PEPPER=PEPPER)
    assert set(settings.secrets()) == {url, PEPPER, *hidden}
    assert not any(word in repr(settings) + str(settings) for word in (url, *hidden))
