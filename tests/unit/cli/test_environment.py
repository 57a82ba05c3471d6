from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from roadworthy.cli.environment import env_name, export_files, load_settings, secret_values, unknown_variables
from roadworthy.domain.errors import ConfigError
from roadworthy.settings import Settings


@pytest.fixture(autouse=True)
def _an_environment_of_our_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of the machine's environment, and nothing of the test's left behind."""
    import os

    for name in list(os.environ):
        if name.startswith("ROADWORTHY_") or name in {env_name(*item) for item in Settings.model_fields.items()}:
            monkeypatch.delenv(name)
    before = dict(os.environ)
    yield
    for name in set(os.environ) - set(before):
        del os.environ[name]


def test_the_process_environment_wins_over_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("REQUEST_TIMEOUT=30\nROADWORTHY_QUEUE_SIZE=7\n")
    (tmp_path / "langgraph.json").write_text(
        '{"graphs": {"a": "a.py:g"}, "env": {"ROADWORTHY_QUEUE_SIZE": "9", "MAX_CONCURRENT_REQUESTS": "3"}}'
    )
    monkeypatch.setenv("REQUEST_TIMEOUT", "60")
    settings = load_settings(folder=tmp_path)
    assert settings.request_timeout == timedelta(seconds=60)
    assert settings.queue_size == 7
    assert settings.max_concurrent_requests == 3


def test_variables_of_other_programs_are_exported_too(tmp_path: Path) -> None:
    import os

    (tmp_path / ".env").write_text("SOME_PROVIDER_KEY='a b'\n# a comment\nexport OTHER=1\n")
    load_settings(folder=tmp_path)
    assert os.environ["SOME_PROVIDER_KEY"] == "a b"
    assert os.environ["OTHER"] == "1"


def test_the_env_of_a_project_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "prod.env").write_text("ROADWORTHY_PORT=9001\n")
    (tmp_path / "langgraph.json").write_text('{"env": "./prod.env", "graphs": {"a": "a.py:g"}}')
    assert load_settings(folder=tmp_path).port == 9001


def test_a_project_file_that_makes_no_sense_is_named(tmp_path: Path) -> None:
    (tmp_path / "langgraph.json").write_text("{")
    with pytest.raises(ConfigError, match=r"langgraph\.json is not JSON"):
        export_files(tmp_path)


def test_a_target_leaves_the_project_file_alone(tmp_path: Path) -> None:
    (tmp_path / "langgraph.json").write_text("{")
    assert load_settings("agent.py:graph", folder=tmp_path).port == 8000


def test_an_unreadable_dotenv_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"A=\xff\xfe\n")
    with pytest.raises(ConfigError, match=r"\.env cannot be read"):
        export_files(tmp_path)


def test_each_wrong_variable_gets_a_line_that_says_what_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAX_CONCURRENT_REQUESTS", "many")
    monkeypatch.setenv("ROADWORTHY_PORT", "99999")
    monkeypatch.setenv("ROADWORTHY_LOG_LEVEL", "loud")
    monkeypatch.setenv("REQUEST_TIMEOUT", "soon")
    with pytest.raises(ConfigError) as caught:
        load_settings(folder=tmp_path)
    lines = {line.split()[0]: line for line in caught.value.message.splitlines()}
    assert set(lines) == {"MAX_CONCURRENT_REQUESTS", "ROADWORTHY_PORT", "ROADWORTHY_LOG_LEVEL", "REQUEST_TIMEOUT"}
    assert "65535" in lines["ROADWORTHY_PORT"]
    assert "Runs that execute at once" in lines["MAX_CONCURRENT_REQUESTS"]
    assert "'debug'" in lines["ROADWORTHY_LOG_LEVEL"]


def test_a_wrong_secret_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROADWORTHY_KEY_PEPPER", "tooshort")
    with pytest.raises(ConfigError) as caught:
        load_settings(folder=tmp_path)
    assert "ROADWORTHY_KEY_PEPPER" in caught.value.message
    assert "tooshort" not in caught.value.message


def test_the_command_line_wins_over_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROADWORTHY_PORT", "9001")
    assert load_settings(folder=tmp_path, port=9002, host=None).port == 9002


def test_no_auth_beyond_this_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"only on a loopback address, not on 0\.0\.0\.0"):
        load_settings(folder=tmp_path, auth=False, host="0.0.0.0")


def test_values_of_variables_named_like_secrets_are_secrets() -> None:
    environment = {
        "GOOGLE_API_KEY": "google-key",
        "LANGSMITH_API_KEY": "",
        "HF_TOKEN": "hub-token",
        "SESSION_SECRET": "session-secret",
        "POSTGRES_PASSWORD": "database-password",
        "PGPASSWORD": "libpq-password",
        "AWS_SECRET_ACCESS_KEY": "cloud-access-key",
        "SHORT_PASSWORD": "dog",
        "TOKENIZERS_PARALLELISM": "not-a-secret",
        "PATH": "/usr/local/bin",
    }
    assert list(secret_values(environment)) == [
        "google-key",
        "hub-token",
        "session-secret",
        "database-password",
        "libpq-password",
        "cloud-access-key",
    ]


def test_a_mistyped_variable_is_named_with_its_likely_meaning() -> None:
    environment = {"ROADWORTHY_QUEU_SIZE": "1", "ROADWORTHY_PORT": "1", "PATH": "/bin", "ROADWORTHY_ZZZ": "1"}
    first, second = unknown_variables(environment)
    assert first == "ROADWORTHY_QUEU_SIZE is no setting and has no effect; did you mean ROADWORTHY_QUEUE_SIZE?"
    assert second.startswith("ROADWORTHY_ZZZ is no setting")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"ROADWORTHY_TIME_ZONE": "Mars"},
            "ROADWORTHY_TIME_ZONE must be an IANA time zone such as Europe/Berlin, not 'Mars'.",
        ),
        (
            {"ROADWORTHY_JWT_ISSUER": "https://login.example.org"},
            "ROADWORTHY_JWT_ISSUER: JWT bearer tokens need both ROADWORTHY_JWT_ISSUER and ROADWORTHY_JWT_AUDIENCE",
        ),
        (
            {"ROADWORTHY_JWT_JWKS_URL": "https://login.example.org/keys", "ROADWORTHY_JWT_AUDIENCE": "us"},
            "ROADWORTHY_JWT_AUDIENCE, ROADWORTHY_JWT_JWKS_URL: JWT bearer tokens need both",
        ),
        ({"ROADWORTHY_JWT_TENANT_CLAIM": "team"}, "ROADWORTHY_JWT_TENANT_CLAIM: JWT bearer tokens need both"),
        ({"ROADWORTHY_AUTH": "false", "ROADWORTHY_HOST": "0.0.0.0"}, "authentication can be off (ROADWORTHY_AUTH"),
    ],
)
def test_variables_that_do_not_fit_are_named(
    environment: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as refused:
        load_settings(folder=tmp_path)
    assert refused.value.message.startswith(message)
