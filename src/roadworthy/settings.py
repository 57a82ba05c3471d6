"""Every setting of the server, read once from the environment by ``cli`` and handed down.

Frozen; ``docs/configuration.md`` is generated from the descriptions. Names known from other services keep their plain
form; everything else is ``ROADWORTHY_…``.
"""

import ipaddress
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import parse_qs, unquote, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

_FLEET = ("fleet_runs", "fleet_runs_per_tenant", "fleet_runs_per_agent")
_YEAR_SECONDS = 31_536_000
_POSTGRES = ("postgresql://", "postgres://")
_REDIS = ("redis://", "rediss://", "unix://")
_JWT_ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"})


def _seconds(value: object) -> object:
    """Durations are written as plain seconds in the environment."""
    if not isinstance(value, str | int | float):
        return value
    try:
        seconds = float(value)
    except ValueError:
        raise ValueError("must be a number of seconds") from None
    if not abs(seconds) <= _YEAR_SECONDS:  # NaN too
        raise ValueError("must be at most a year of seconds")
    return timedelta(seconds=seconds)


def _words(value: object) -> object:
    """Lists are written with commas in the environment."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Seconds = Annotated[timedelta, BeforeValidator(_seconds)]
Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]


class Settings(BaseSettings):
    """All settings, flat as they are in the environment.

    Raises:
        pydantic.ValidationError: a value is out of range or not of its type.
    """

    model_config = SettingsConfigDict(
        env_prefix="ROADWORTHY_", frozen=True, extra="ignore", populate_by_name=True, env_ignore_empty=True
    )

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    data_dir: Path = Field(default=Path(".roadworthy"), description="Folder of the databases and the key pepper.")
    database_url: SecretStr | None = Field(
        default=None,
        description="Postgres in place of SQLite: `postgresql://user:password@host:5432/database`. Needs the extra "
        "`cluster` and `ROADWORTHY_KEY_PEPPER`.",
    )
    auto_migrate: bool = Field(
        default=False,
        description="Whether a start on Postgres brings the schema up to date by itself, as it always does on SQLite; "
        "else `roadworthy migrate` does it.",
    )
    redis_url: SecretStr | None = Field(
        default=None,
        description="Redis or Valkey beside Postgres, for events, rates and hints between servers: "
        "`redis://:password@host:6379/0`, `rediss://` with TLS, or `unix://`.",
    )
    api_version: str = Field(
        default="v1",
        validation_alias=AliasChoices("API_VERSION", "api_version"),
        pattern=r"^[A-Za-z0-9._-]{1,32}$",
        description="Version named in the OpenAPI document.",
    )

    max_concurrent_requests: int = Field(
        default=10,
        ge=1,
        le=10_000,
        validation_alias=AliasChoices("MAX_CONCURRENT_REQUESTS", "max_concurrent_requests"),
        description="Runs that execute at once in this process.",
    )
    request_timeout: Seconds = Field(
        default=timedelta(seconds=120),
        gt=timedelta(0),
        validation_alias=AliasChoices("REQUEST_TIMEOUT", "request_timeout"),
        description="Seconds a whole run may take, waiting included.",
    )
    idle_timeout: Seconds = Field(
        default=timedelta(seconds=60),
        gt=timedelta(0),
        description="Seconds without progress after which a run ends. Running tools have their own bound.",
    )
    tool_timeout: Seconds = Field(
        default=timedelta(seconds=60),
        gt=timedelta(0),
        description="Seconds a tool of a ToolNode may take before the model gets an error.",
    )
    tool_output_max: int = Field(
        default=200_000,
        ge=1_000,
        description="Characters of one tool result (ToolNode) kept for the model; the rest is cut with a marker.",
    )
    queue_size: int = Field(
        default=100,
        ge=0,
        description="Runs that may wait for a slot, one user's at most half of them; more are refused.",
    )
    max_steps: int = Field(
        default=100, ge=1, description="Graph steps of one run; an agent's smaller recursion limit wins."
    )
    max_model_calls: int = Field(default=50, ge=1, description="Model calls of one run.")
    max_tool_calls: int = Field(default=100, ge=1, description="Tool calls of one run.")
    drain_timeout: Seconds = Field(
        default=timedelta(seconds=20),
        ge=timedelta(0),
        description="Seconds that runs get to reach a step's end after SIGTERM.",
    )
    watchdog_timeout: Seconds = Field(
        default=timedelta(seconds=30),
        gt=timedelta(seconds=1),
        description="Seconds of a blocked event loop after which the process ends itself.",
    )
    stuck_timeout: Seconds = Field(
        default=timedelta(seconds=30),
        gt=timedelta(0),
        description="Seconds with every slot held by threads of ended runs after which the process ends itself.",
    )

    fleet_runs: int | None = Field(
        default=None, ge=1, description="Runs that execute at once in all servers on one Postgres together."
    )
    fleet_runs_per_tenant: int | None = Field(default=None, ge=1, description="Of these, runs of one tenant.")
    fleet_runs_per_agent: int | None = Field(default=None, ge=1, description="Of these, runs of one agent.")
    circuit_failures: int = Field(
        default=5,
        ge=0,
        description="Failures of a model provider in a row (overload, server error, no connection) after which it is "
        "not called for a while; 0 for never.",
    )
    circuit_seconds: Seconds = Field(
        default=timedelta(seconds=10),
        gt=timedelta(0),
        description="Seconds that such a while lasts; each time in a row it is twice as long, two minutes at most.",
    )

    message_max: int = Field(default=4000, ge=1, description="Characters of a text `message`.")
    body_max: int = Field(default=4_000_000, ge=1_000, description="Bytes of a request body.")
    stream_heartbeat: Seconds = Field(
        default=timedelta(seconds=15),
        gt=timedelta(0),
        description="Seconds of silence after which a stream gets a comment.",
    )
    slow_reader_timeout: Seconds = Field(
        default=timedelta(seconds=30),
        gt=timedelta(0),
        description="Seconds a stream's reader may block before it is dropped, resumable.",
    )
    cors_origins: Words = Field(default=(), description="Origins that browsers may call from, separated by commas.")

    auth: bool = Field(default=True, description="Off only on a loopback address (`serve --no-auth`).")
    admin_key: SecretStr | None = Field(
        default=None, description="An admin key to register at start: `rw_live_` and 24 random characters or more."
    )
    key_pepper: SecretStr | None = Field(
        default=None,
        min_length=16,
        description="Secret mixed into key digests; default: a file with mode 0600 in the data folder. Required on "
        "Postgres, where every server must have the same.",
    )
    jwt_issuer: str | None = Field(
        default=None,
        description="Issuer (`iss`) whose JWT bearer tokens are accepted beside API keys; its keys are found by OpenID "
        "Connect discovery unless `ROADWORTHY_JWT_JWKS_URL` names them.",
    )
    jwt_audience: str | None = Field(default=None, description="Audience (`aud`) that such a token must name.")
    jwt_jwks_url: str | None = Field(default=None, description="Where the issuer publishes its keys.")
    jwt_algorithms: Words = Field(
        default=("RS256", "ES256"), description="Signature algorithms that are accepted; only asymmetric ones can be."
    )
    jwt_user_claim: str = Field(default="sub", description="Claim that names the user.")
    jwt_tenant_claim: str | None = Field(
        default=None, description="Claim that names the tenant; without it every token belongs to `default`."
    )
    jwt_scope_claim: str = Field(default="scope", description="Claim that lists scopes, as words or as a list.")
    jwt_scope_prefix: str = Field(
        default="roadworthy:",
        description="What marks a scope in that claim as ours; a token without any gets `runs:read runs:write`.",
    )

    price_file: Path | None = Field(
        default=None, description="TOML file with prices of models that go before the built-in ones."
    )
    time_zone: str = Field(
        default="UTC", description="IANA time zone in which days, weeks and months of new budgets and of usage begin."
    )
    reserved_output_tokens: int = Field(
        default=4096,
        ge=1,
        description="Output tokens for which money is reserved before a model call, where a budget applies; fewer when "
        "the model's own limit is lower.",
    )

    thread_ttl_days: int | None = Field(
        default=None, ge=1, description="Days after its last use when a thread is erased; never without it."
    )
    events_ttl_days: int | None = Field(
        default=30, ge=1, description="Days after a run's end when its events go; the run itself stays with its thread."
    )
    idempotency_ttl_hours: int = Field(default=24, ge=1, description="Hours for which an `Idempotency-Key` is known.")
    checkpoints_kept: int = Field(
        default=10, ge=1, description="Latest checkpoints of a thread that are kept, besides those something stands on."
    )
    outputs_kept: int = Field(
        default=10, ge=1, description="Latest runs of a thread whose whole `output` is kept; of older ones it is null."
    )

    store_scope: Literal["user", "tenant"] = Field(
        default="user", description="Who shares the items that agents keep in LangGraph's store."
    )

    model: str | None = Field(default=None, description="`provider:model` of the built-in assistant.")
    model_base_url: str | None = Field(default=None, description="Base URL for that model.")
    fallback_model: str | None = Field(
        default=None, description="`provider:model` tried by the assistant when the first fails."
    )
    summary_model: str | None = Field(
        default=None,
        description="`provider:model` that summarizes long conversations of the assistant; off without it.",
    )
    summarize_after_tokens: int = Field(
        default=20_000, ge=1_000, description="Tokens of a conversation from which on the assistant summarizes."
    )
    cheap_model: str | None = Field(
        default=None,
        description="`provider:model` that the assistant asks as long as all messages of a thread are short and it "
        "needed no tool.",
    )
    cheap_below_chars: int = Field(
        default=200, ge=1, description="Characters of a message below which the assistant asks the cheap model."
    )
    assistant_max_model_calls: int | None = Field(
        default=None,
        ge=1,
        description="Model calls of one answer after which the assistant ends it with a message that says so.",
    )
    anthropic_api_key: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("ANTHROPIC_API_KEY", "anthropic_api_key"),
        description="Makes the built-in assistant the default agent.",
    )
    tavily_api_key: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("TAVILY_API_KEY", "tavily_api_key"),
        description="Gives the built-in assistant web search.",
    )
    state_types: Words = Field(default=(), description="Extra `module:Class` names that checkpoints may hold.")

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level that is logged."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="`auto`: console on a terminal, else JSON."
    )

    metrics_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="A port of its own for `/metrics`, without a key; by default it is on the server's port, for keys "
        "of the tenant `default` with the scope `metrics:read`.",
    )
    metrics_host: str | None = Field(
        default=None, description="Address that `/metrics` listens on when it has a port of its own; default: the host."
    )

    def secrets(self) -> tuple[str, ...]:
        """The secret values that are set, for the log's redaction; of an address its password too."""
        values = [
            value.get_secret_value()
            for name in type(self).model_fields
            if isinstance(value := getattr(self, name), SecretStr)
        ]
        addresses = (self.database_url, self.redis_url)
        passwords = [word for one in addresses if one is not None for word in _passwords(one.get_secret_value())]
        return (*values, *passwords)

    def pepper(self, otherwise: Callable[[], bytes]) -> bytes:
        """The secret that is mixed into key digests: the given one, else what ``otherwise`` finds or makes."""
        return self.key_pepper.get_secret_value().encode() if self.key_pepper else otherwise()

    @field_validator("host")
    @classmethod
    def _host_is_given(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("must not be empty")
        return value

    @field_validator("database_url")
    @classmethod
    def _database_is_postgres(cls, value: SecretStr | None) -> SecretStr | None:
        # The value is not quoted: what is no address may be a password in the wrong place.
        if value is not None and not value.get_secret_value().startswith(_POSTGRES):
            raise ValueError(
                "must begin with postgresql:// or postgres://, without the name of a driver such as +asyncpg"
            )
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis_is_an_address(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(_REDIS):
            raise ValueError("must begin with redis://, rediss:// (TLS) or unix://")
        return value

    @field_validator("time_zone")
    @classmethod
    def _time_zone_is_known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"must be an IANA time zone such as Europe/Berlin, not {value!r}") from None
        return value

    @field_validator("jwt_algorithms")
    @classmethod
    def _algorithms_are_asymmetric(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        # A shared secret, or none, would let whoever reads the public key sign as the issuer.
        wrong = [name for name in value if name not in _JWT_ALGORITHMS]
        if wrong or not value:
            raise ValueError(f"must be of {', '.join(sorted(_JWT_ALGORITHMS))}")
        return value

    @model_validator(mode="after")
    def _tokens_need_issuer_and_audience(self) -> "Settings":
        if self.jwt_issuer is not None and self.jwt_audience is not None:
            return self
        given = sorted(name for name in self.model_fields_set if name.startswith("jwt_") and getattr(self, name))
        if given:
            # One that is passed over would let an operator believe that tokens are accepted.
            named = ", ".join(f"ROADWORTHY_{name.upper()}" for name in given)
            raise ValueError(f"{named}: JWT bearer tokens need both ROADWORTHY_JWT_ISSUER and ROADWORTHY_JWT_AUDIENCE")
        return self

    @model_validator(mode="after")
    def _postgres_needs_a_pepper(self) -> "Settings":
        if self.database_url is not None and self.key_pepper is None:
            raise ValueError(
                "ROADWORTHY_DATABASE_URL needs ROADWORTHY_KEY_PEPPER: 16 characters or more, the same for every server "
                "on this database, because what one of them keeps in a file opens no key at another"
            )
        return self

    @model_validator(mode="after")
    def _fleets_need_postgres(self) -> "Settings":
        if self.database_url is not None:
            return self
        given = [name for name in ("redis_url", *_FLEET) if getattr(self, name) is not None]
        if given:
            named = ", ".join(f"ROADWORTHY_{name.upper()}" for name in given)
            raise ValueError(f"{named}: only for servers that share a Postgres; set ROADWORTHY_DATABASE_URL too")
        return self

    @model_validator(mode="after")
    def _no_auth_needs_loopback(self) -> "Settings":
        if not self.auth and not is_loopback(self.host):
            raise ValueError(
                f"authentication can be off (ROADWORTHY_AUTH, --no-auth) only on a loopback address, not on {self.host}"
            )
        return self


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine only. A name other than ``localhost`` is not trusted to be."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _passwords(url: str) -> Iterable[str]:
    """What must not be shown of an address, also by itself: its password as it is written, and what that means."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return
    password = parts.netloc.rpartition("@")[0].partition(":")[2]
    for text in (password, unquote(password), *parse_qs(parts.query).get("password", ())):
        if text:
            yield text
