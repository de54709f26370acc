"""Settings of worker, API and command line: `PERDURE_*` variables, then files of secrets, then `perdure.toml`.

The connection to Temporal is not here: it follows Temporal's own standard configuration (`TEMPORAL_ADDRESS`,
`TEMPORAL_NAMESPACE`, TLS, API key, profiles), see `perdure.connection`. Neither are the model providers' keys and base
addresses, which their SDKs read from their own variables.
"""

from __future__ import annotations

import base64
import ipaddress
import json
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic_settings
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    IPvAnyNetwork,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from perdure.contracts import DEFAULT_TASK_QUEUE
from perdure.encryption import Keyring, current_key, read_key
from perdure.errors import SettingsError
from perdure.rate_limits import RateLimits


class Price(BaseModel, frozen=True, extra="forbid"):
    """A model's price in US dollars per million tokens."""

    input: Decimal = Field(ge=0)
    output: Decimal = Field(ge=0)
    cache_read: Decimal | None = Field(default=None, ge=0)
    """Default: as input."""
    cache_write: Decimal | None = Field(default=None, ge=0)
    """Default: as input."""


def _several(value: Any) -> Any:
    """Read a list as a variable has it: separated by commas, or as JSON."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [part.strip() for part in value.split(",") if part.strip()]


def _signing_secret(value: SecretStr) -> SecretStr:
    # As Standard Webhooks has them: 24 to 64 random bytes in base64, behind a prefix.
    prefix, _, encoded = value.get_secret_value().partition("_")
    try:
        size = len(base64.b64decode(encoded, validate=True))
    except ValueError:
        size = 0
    if prefix != "whsec" or not MIN_SECRET_BYTES <= size <= MAX_SECRET_BYTES:
        raise ValueError(
            f"a secret is 'whsec_' and {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} random bytes in base64, as "
            "'openssl rand -base64 32' writes them"
        )
    return value


MIN_SECRET_BYTES = 24
MAX_SECRET_BYTES = 64
WebhookSecret = Annotated[SecretStr, AfterValidator(_signing_secret)]


class Oidc(BaseModel, frozen=True, extra="forbid"):
    """Whose tokens the API takes besides its own keys, and what their claims mean."""

    issuer: Annotated[str, Field(pattern=r"^https?://[^\s/]")]
    """As tokens name it in `iss`; its discovery document is found under it."""
    audience: Annotated[str, Field(min_length=1)]
    """What tokens for this API have in `aud`."""
    jwks_url: Annotated[str, Field(pattern=r"^https?://[^\s/]")] | None = None
    """Where the issuer's keys are; default: where its discovery document says."""
    user_claim: Annotated[str, Field(min_length=1)] = "sub"
    org_claim: Annotated[str, Field(min_length=1)] = "org"
    """A token without it is refused."""
    org: Annotated[str, Field(pattern=r"""^[^\x00-\x1f\x7f"'\\]{1,255}$""")] | None = None
    """The organisation of all tokens, in place of a claim."""
    roles_claim: Annotated[str, Field(min_length=1)] = "roles"
    """A list, or words apart by blanks; `realm_access.roles` looks inside `realm_access`."""
    scopes_claim: Annotated[str, Field(min_length=1)] = "scope"
    client_id: Annotated[str, Field(min_length=1)] | None = None
    """What the issuer knows the console as; default: the console takes API keys only."""
    client_secret: SecretStr | None = None
    """Of a client that is not public."""
    login_scope: Annotated[str, Field(min_length=1)] = (
        "openid runs:read runs:write approvals:decide usage:read audit:read"
    )
    """What the console asks the issuer for."""


class Settings(BaseSettings):
    """What an operator can set. Each field is the variable `PERDURE_<FIELD>` or a key of `perdure.toml`."""

    model_config = SettingsConfigDict(
        env_prefix="PERDURE_",
        env_nested_delimiter="__",
        toml_file="perdure.toml",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    secrets_dir: Path | None = None
    """Folder with one file for each setting that is to be kept out of the environment, `perdure_<field>`."""

    app: str | None = None
    """The app to serve: `package.module:attribute` or an entry point's name; default: all installed entry points."""
    policy: Path | None = None
    """A file, YAML or TOML, that governs all runs in place of the policies that apps come with."""
    task_queue: str = Field(default=DEFAULT_TASK_QUEUE, min_length=1)
    """Temporal task queue that workers poll and runs are started on."""
    deployment_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,199}$")] | None = None
    """What the worker deployment is called whose versions are ramped; with `build_id`, workers are versioned."""
    build_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,199}$")] | None = None
    """Which build of app and Perdure a worker runs, as a commit's hash."""

    api_host: str = "127.0.0.1"
    """Address the API listens on; anything but loopback needs `auth = "required"`."""
    api_port: int = Field(default=8000, ge=0, le=65535)
    auth: Literal["open", "required"] | None = None
    """`required`: each /v1 request proves who calls, by an API key or a token. `open`: none does, and the API serves
    this machine only. Default: `required` if `oidc` is set, else `open`."""
    oidc: Oidc | None = None
    """The issuer of tokens."""

    max_concurrent_activities: int = Field(default=100, ge=1)
    """Model and tool calls one worker process runs at a time."""
    max_concurrent_workflow_tasks: int = Field(default=20, ge=2)
    """Workflow tasks (the short turns of the run's own code) one worker process handles at a time. They share one
    processor, so more of them make no more progress; and those in hand are out of fairness's reach."""
    max_cached_runs: int = Field(default=1000, ge=0)
    """Runs one worker process keeps between their steps; others are replayed from history when they go on."""
    shutdown_grace_seconds: float = Field(default=30, ge=0)
    """How long a stopping worker lets running calls finish before it cancels them."""
    transcript_cache_mb: int = Field(default=256, ge=1)
    """Memory one worker process spends on conversations, so that it need not ask the workflow for them."""
    compress_above_bytes: int = Field(default=16 * 1024, ge=0)
    """Payloads larger than this are compressed (zstd) on their way into history; 0 never compresses."""
    encryption_keys: dict[str, SecretStr] = Field(default_factory=dict)
    """Keys that decrypt payloads, by id, each the base64 of 32 bytes; without any, nothing is encrypted."""
    encryption_key_id: str | None = Field(default=None, validate_default=True)
    """The key that encrypts; default: the only one."""
    ui_url: str | None = None
    """Address of the Temporal Web UI, for links."""
    redis_url: Annotated[SecretStr, Field(min_length=1)] | None = None
    """A Redis through which the processes of a deployment share what each would otherwise know alone."""
    delta_socket: Path | None = None
    """A Unix socket through which workers on this machine tell the API what models say; `perdure dev` has its own.
    Default: through `redis_url`, if that is set."""

    breaker_window: int = Field(default=20, ge=0, le=1000)
    """Latest calls of a model that its circuit looks at, once a quarter of them were made; 0: there are no circuits."""
    breaker_failure_rate: float = Field(default=0.5, gt=0, le=1)
    """The part of these calls whose failure opens the circuit."""
    breaker_open_seconds: float = Field(default=30, gt=0, le=3600)
    """How long a model is left alone when its circuit has opened."""
    breaker_probes: int = Field(default=1, ge=1, le=100)
    """Calls that a model is then tried with, one at a time, before it is used as before."""
    tool_cache: Literal["memory", "redis"] = "memory"
    """Where results of tools that are cached are kept: by each worker process, or by all of them in `redis_url`."""
    tool_cache_secret: Annotated[SecretStr, Field(min_length=16)] | None = None
    """What signs results in Redis; the same for all workers."""
    rate_limits: RateLimits = RateLimits()
    """How often one key, user or organisation may call the API, by what a request does."""

    public_url: Annotated[str, Field(pattern=r"^https?://[^\s?#]+$")] | None = None
    """Address at which people reach the API, for links in notifications."""
    console_secret: Annotated[SecretStr, Field(min_length=32)] | None = None
    """Encrypts the console's cookies; the same for all API processes. The console asks for it where one logs in."""
    webhook_secrets: Annotated[tuple[WebhookSecret, ...], NoDecode, BeforeValidator(_several)] = ()
    """Secrets that webhooks are signed with, separated by commas; each signs, so that receivers can change over."""
    callback_allowed_networks: Annotated[tuple[IPvAnyNetwork, ...], NoDecode, BeforeValidator(_several)] = ()
    """Networks that callbacks and webhooks may lead to although they are not public, and without TLS."""

    prices: dict[str, Price] = Field(default_factory=dict)
    """Prices by model reference (`openai-chat:my-model`), before those of genai-prices."""
    usage: bool = True
    """Whether runs without budgets tell their organisation's ledger what they used, for `perdure usage`."""

    audit_url: str | None = None
    """Where the audit is kept: `file:///var/lib/perdure/audit` or `s3://bucket/prefix`; default: there is none."""
    audit_interval_seconds: float = Field(default=2, ge=0.1, le=3600)
    """How often the auditor looks for what is new; a chain in a bucket grows by at most one object each time."""
    audit_key: Annotated[SecretStr, Field(min_length=16)] | None = None
    """Digests of arguments are keyed with it (HMAC), so that readers cannot find arguments by trying."""
    audit_s3_endpoint: Annotated[str, Field(pattern=r"^https?://")] | None = None
    """Address of an S3-compatible store; default: Amazon's. This and those below: else as the `AWS_…` variables say."""
    audit_s3_region: str | None = None
    audit_s3_access_key_id: str | None = None
    audit_s3_secret_access_key: SecretStr | None = None
    pii: Literal["off", "presidio"] = "off"
    """Whether personal data is redacted beside secrets; `presidio` needs the extra `pii`."""

    metrics_address: Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:]+\]|[^\s:/]+):\d{1,5}$")] | None = None
    """Where a worker serves its numbers to Prometheus, `host:port`; default: nowhere."""
    metrics: bool = True
    """Whether the API serves its numbers at `/metrics`, to everyone who reaches it."""
    trace_content: bool = False
    """Whether spans show what was said: instructions, messages, arguments and results, redacted."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "console"] = "auto"
    """`auto`: for people on a terminal, JSON elsewhere."""

    @property
    def auth_required(self) -> bool:
        """Whether the API asks who calls."""
        return (self.auth or ("required" if self.oidc else "open")) == "required"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read arguments, then the environment, then files of secrets, then `perdure.toml`."""
        del dotenv_settings
        file = TomlConfigSettingsSource(settings_cls)
        named = (source().get("secrets_dir") for source in (init_settings, env_settings, file))
        secrets = NestedSecretsSettingsSource(
            file_secret_settings, secrets_dir=next(filter(None, named), None), secrets_dir_missing="error"
        )
        return (init_settings, env_settings, secrets, file)

    @field_validator("deployment_name", "build_id", mode="before")
    @classmethod
    def _may_be_empty(cls, value: Any) -> Any:
        return value or None  # as an image has it that was built without

    @field_validator("encryption_keys")
    @classmethod
    def _are_keys(cls, keys: dict[str, SecretStr]) -> dict[str, SecretStr]:
        ids: dict[bytes, str] = {}
        for key_id, key in keys.items():
            twin = ids.setdefault(read_key(key_id, key), key_id)
            if twin != key_id:
                raise ValueError(f"the keys {twin!r} and {key_id!r} are the same")
        return keys

    @field_validator("encryption_key_id")
    @classmethod
    def _is_among_the_keys(cls, chosen: str | None, info: ValidationInfo) -> str | None:
        keys: dict[str, SecretStr] | None = info.data.get("encryption_keys")
        if keys is None or (not keys and chosen is None):  # wrong themselves, or there is no encryption
            return chosen
        return current_key(keys, chosen)

    def keyring(self) -> Keyring | None:
        """Return the keys that payloads are encrypted with; None if they are not."""
        return Keyring(self.encryption_keys, current=self.encryption_key_id) if self.encryption_keys else None

    def check_exposure(self) -> None:
        """Refuse to serve the open API to a network.

        Raises:
            SettingsError: The API asks nobody who calls, and would listen on an address that is not loopback.
        """
        if not self.auth_required and not _is_loopback(self.api_host):
            raise SettingsError(
                f"the API would be open to everyone who reaches {self.api_host!r}: set PERDURE_AUTH=required and make "
                "keys with 'perdure keys create', or listen on 127.0.0.1"
            )


def load_settings(**overrides: object) -> Settings:
    """Read the settings; overrides that are None are left to the environment.

    Raises:
        SettingsError: A value is wrong, or `perdure.toml` cannot be read.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]  # the CLI hands over what pydantic then validates
    except ValidationError as error:
        problems = "; ".join(
            f"PERDURE_{'__'.join(str(place) for place in problem['loc']).upper()}: "
            f"{problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors(include_url=False)
        )
        raise SettingsError(f"the settings are wrong: {problems}") from error
    except pydantic_settings.SettingsError as error:
        raise SettingsError(f"the settings are wrong: {error}") from error
    except (OSError, ValueError) as error:
        raise SettingsError(f"{Path('perdure.toml').absolute()} cannot be read: {error}") from error


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
