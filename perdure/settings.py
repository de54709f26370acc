"""Settings of worker, API and command line: `PERDURE_*` variables, then files of secrets, then `perdure.toml`.

The connection to Temporal is not here: it follows Temporal's own standard configuration (`TEMPORAL_ADDRESS`,
`TEMPORAL_NAMESPACE`, TLS, API key, profiles), see `perdure.connection`. Neither are the model providers' keys and base
addresses, which their SDKs read from their own variables.
"""

from __future__ import annotations

import ipaddress
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

import pydantic_settings
from pydantic import BaseModel, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from perdure.contracts import DEFAULT_TASK_QUEUE
from perdure.encryption import Keyring, current_key, read_key
from perdure.errors import SettingsError


class Price(BaseModel, frozen=True, extra="forbid"):
    """A model's price in US dollars per million tokens."""

    input: Decimal = Field(ge=0)
    output: Decimal = Field(ge=0)
    cache_read: Decimal | None = Field(default=None, ge=0)
    """Default: as input."""
    cache_write: Decimal | None = Field(default=None, ge=0)
    """Default: as input."""


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
    task_queue: str = Field(default=DEFAULT_TASK_QUEUE, min_length=1)
    """Temporal task queue that workers poll and runs are started on."""

    api_host: str = "127.0.0.1"
    """Address the API listens on; anything but loopback needs `api_key`."""
    api_port: int = Field(default=8000, ge=0, le=65535)
    api_key: Annotated[SecretStr, Field(min_length=1)] | None = None
    """Bearer key every /v1 request must carry; without one the API serves loopback only."""

    max_concurrent_activities: int = Field(default=100, ge=1)
    """Model and tool calls one worker process runs at a time."""
    max_concurrent_workflow_tasks: int = Field(default=100, ge=2)
    """Workflow tasks (the short turns of the run's own code) one worker process handles at a time."""
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

    prices: dict[str, Price] = Field(default_factory=dict)
    """Prices by model reference (`openai-chat:my-model`), before those of genai-prices."""
    usage: bool = True
    """Whether runs without budgets tell their organisation's ledger what they used, for `perdure usage`."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "console"] = "auto"
    """`auto`: for people on a terminal, JSON elsewhere."""

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
            SettingsError: The API has no key and would listen on an address that is not loopback.
        """
        if self.api_key is None and not _is_loopback(self.api_host):
            raise SettingsError(
                f"the API would be open to everyone who reaches {self.api_host!r}: set PERDURE_API_KEY, or listen on "
                "127.0.0.1"
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
