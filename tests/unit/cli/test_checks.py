from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from roadworthy.cli import checks
from roadworthy.cli.checks import Finding, Verdict
from roadworthy.cli.data import open_data
from roadworthy.settings import Settings
from tests.support.identity_provider import identity_provider, signing_key

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def _verdicts(findings: object) -> list[Verdict]:
    assert isinstance(findings, list | tuple)
    return [finding.verdict for finding in findings if isinstance(finding, Finding)]


def test_a_folder_that_is_not_there_yet_will_be_made(tmp_path: Path) -> None:
    (finding,) = checks.check_data_folder(Settings(data_dir=tmp_path / "a" / "b"))
    assert finding.verdict is Verdict.OK
    assert not (tmp_path / "a").exists()


def test_a_file_in_the_place_of_the_folder_fails(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    (finding,) = checks.check_data_folder(Settings(data_dir=tmp_path / "data"))
    assert finding.verdict is Verdict.FAIL
    assert finding.advice


def test_a_folder_that_others_can_read_is_a_warning(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    first, *_ = checks.check_data_folder(Settings(data_dir=tmp_path))
    assert (first.verdict, first.advice) == (Verdict.WARN, f"chmod 700 {tmp_path}")


async def test_a_database_of_this_version_is_well(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    async with open_data(settings):
        pass
    assert _verdicts(checks.check_database(settings)) == [Verdict.OK]


async def test_a_file_that_is_no_database_fails(tmp_path: Path) -> None:
    (tmp_path / "roadworthy.db").write_bytes(b"not a database, but long enough to be looked at" * 20)
    assert _verdicts(checks.check_database(Settings(data_dir=tmp_path))) == [Verdict.FAIL]


async def test_a_clock_before_the_release_fails(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    assert _verdicts(await checks.check_clock(settings, datetime(1970, 1, 2, tzinfo=UTC))) == [Verdict.FAIL]
    assert _verdicts(await checks.check_clock(settings, NOW)) == [Verdict.OK]


@pytest.mark.parametrize(
    ("settings", "verdict"),
    [
        (Settings(), Verdict.OK),
        (Settings(auth=False), Verdict.WARN),
        (Settings(host="0.0.0.0"), Verdict.WARN),
    ],
)
def test_who_can_reach_the_server_is_judged(settings: Settings, verdict: Verdict) -> None:
    assert _verdicts(list(checks.check_access(settings))) == [verdict]


def test_any_origin_is_a_warning() -> None:
    assert _verdicts(list(checks.check_access(Settings(cors_origins=("*",))))) == [Verdict.OK, Verdict.WARN]


def test_an_admin_key_that_may_be_guessed_is_a_warning() -> None:
    def verdicts(key: str) -> list[Verdict]:
        return _verdicts(list(checks.check_access(Settings(admin_key=SecretStr(key)))))

    assert verdicts("rw_live_12345678") == [Verdict.OK, Verdict.WARN]
    assert verdicts("rw_live_" + "a" * 24) == [Verdict.OK]


async def test_a_model_without_a_key_fails() -> None:
    settings = Settings(model="anthropic:claude-sonnet-5-5", anthropic_api_key=None)
    assert _verdicts(await checks.check_model(settings, "anthropic:claude-sonnet-5-5")) == [Verdict.FAIL]


async def test_a_provider_that_cannot_be_asked_is_believed() -> None:
    assert _verdicts(await checks.check_model(Settings(), "openai:gpt-4o")) == [Verdict.OK]


@pytest.mark.parametrize("model", ["anthropic:claude-3-opus-20240229", "anthropic:claude-sonet-5-5"])
async def test_a_model_is_judged_by_a_table_when_the_provider_does_not_answer(model: str) -> None:
    settings = Settings(anthropic_api_key=SecretStr("sk-ant-none"), model_base_url="http://127.0.0.1:9")
    (finding,) = await checks.check_model(settings, model)
    assert finding.verdict is Verdict.WARN
    assert "retired" in finding.detail or "did you mean" in finding.detail


def test_a_price_file_is_read(tmp_path: Path) -> None:
    assert list(checks.check_prices(Settings())) == []
    file = tmp_path / "prices.toml"
    (missing,) = checks.check_prices(Settings(price_file=file))
    file.write_text('["openai:mine"]\ninput = 1\n')
    (wrong,) = checks.check_prices(Settings(price_file=file))
    file.write_text('["openai:mine"]\ninput = 1\noutput = 2\n')
    (well,) = checks.check_prices(Settings(price_file=file))
    assert [finding.verdict for finding in (missing, wrong, well)] == [Verdict.FAIL, Verdict.FAIL, Verdict.OK]
    assert str(file) in missing.detail
    assert "output" in wrong.detail


async def test_a_provider_is_looked_at_only_when_tokens_are_accepted() -> None:
    assert await checks.check_tokens(Settings()) == []
    settings = Settings(jwt_issuer="http://login.example.org", jwt_audience="us", auth=False)
    assert await checks.check_tokens(settings) == []


async def test_keys_from_an_address_that_can_be_forged_fail() -> None:
    settings = Settings(jwt_issuer="http://login.example.org", jwt_audience="us")
    (finding,) = await checks.check_tokens(settings)
    assert (finding.verdict, finding.check) == (Verdict.FAIL, "identity provider")
    assert "ROADWORTHY_JWT_ISSUER" in finding.detail


async def test_a_provider_that_cannot_be_reached_is_a_warning() -> None:
    settings = Settings(jwt_issuer="http://127.0.0.1:9", jwt_audience="us")
    assert _verdicts(await checks.check_tokens(settings)) == [Verdict.WARN]


async def test_a_provider_is_well_when_it_publishes_a_key_that_fits() -> None:
    async with identity_provider(signing_key("curve", "ES256")) as provider:
        settings = Settings(jwt_issuer=provider.url, jwt_audience="us")
        (well,) = await checks.check_tokens(settings)
        (other,) = await checks.check_tokens(settings.model_copy(update={"jwt_algorithms": ("PS256",)}))
    assert (well.verdict, well.detail) == (Verdict.OK, f"{provider.url} publishes keys for ES256")
    assert other.verdict is Verdict.WARN
    assert "ROADWORTHY_JWT_ALGORITHMS" in other.advice


def test_the_worst_finding_decides() -> None:
    ok = Finding(check="a", verdict=Verdict.OK, detail="")
    warn = Finding(check="a", verdict=Verdict.WARN, detail="")
    fail = Finding(check="a", verdict=Verdict.FAIL, detail="")
    assert checks.worst([ok, warn]) is Verdict.WARN
    assert checks.worst([fail, warn, ok]) is Verdict.FAIL
    assert checks.worst([]) is Verdict.OK
