import pytest
from pydantic import SecretStr

from roadworthy.cli import checks
from roadworthy.cli.doctor import effective, without_secrets
from roadworthy.settings import Settings


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("https://bob:hushhush@models.example/v1", "hushhush"),
        ("https://bob:hush@hush@models.example/v1", "hush"),
        ("https://hushhush@models.example/v1", "hushhush"),
        ("https://models.example/v1?key=hushhush", "hushhush"),
    ],
)
def test_what_an_address_holds_besides_the_host_is_not_shown(url: str, secret: str) -> None:
    shown = {name: value for name, value, _ in effective(Settings(model_base_url=url))}["ROADWORTHY_MODEL_BASE_URL"]
    assert secret not in shown
    assert "models.example/v1" in shown


def test_a_secret_is_shown_only_as_set() -> None:
    shown = {name: value for name, value, _ in effective(Settings(anthropic_api_key=SecretStr("sk-ant-hidden")))}
    assert shown["ANTHROPIC_API_KEY"] == "(set)"


async def test_a_password_in_an_address_of_the_provider_is_not_shown() -> None:
    settings = Settings(
        jwt_issuer="https://login.example.org", jwt_audience="us", jwt_jwks_url="http://bob:hushhush@127.0.0.1:9/keys"
    )
    (finding,) = [without_secrets(found, settings) for found in await checks.check_tokens(settings)]
    assert "127.0.0.1:9/keys" in finding.detail
    assert "hushhush" not in finding.detail
    shown = {name: value for name, value, _ in effective(settings)}
    assert "hushhush" not in shown["ROADWORTHY_JWT_JWKS_URL"]
