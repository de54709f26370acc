"""Settings from files of secrets, and keys that are refused by their ids."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from perdure.encryption import new_key
from perdure.errors import SettingsError
from perdure.settings import Settings, load_settings

A, B = new_key().get_secret_value(), new_key().get_secret_value()
Secrets = Callable[..., None]


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Secrets:
    """Write files of secrets and point the settings at them."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERDURE_SECRETS_DIR", str(folder))

    def write(**files: str) -> None:
        for name, text in files.items():
            (folder / name).write_text(f"{text}\n")

    return write


def test_secrets_come_from_files(secrets: Secrets) -> None:
    """A file holds what a variable would; files of others are left alone."""
    issuer = {"perdure_oidc__issuer": "https://login.example", "perdure_oidc__audience": "perdure"}
    secrets(**issuer, perdure_encryption_keys=json.dumps({"a": A}), postgres_password="theirs")

    settings = load_settings()

    assert settings.oidc is not None
    assert settings.oidc.issuer == "https://login.example"
    assert settings.encryption_keys["a"].get_secret_value() == A


def test_a_variable_goes_before_a_file_and_a_file_before_the_toml(
    secrets: Secrets, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In the order that docs/settings.md says."""
    secrets(perdure_task_queue="file", perdure_log_level="error")
    (tmp_path / "perdure.toml").write_text('task_queue = "toml"\nlog_level = "debug"\nui_url = "http://toml"\n')
    monkeypatch.setenv("PERDURE_TASK_QUEUE", "variable")

    settings = load_settings()

    assert (settings.task_queue, settings.log_level, settings.ui_url) == ("variable", "error", "http://toml")


def test_the_toml_may_name_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting is a setting wherever it stands."""
    (tmp_path / "perdure_task_queue").write_text("file")
    (tmp_path / "perdure.toml").write_text(f'secrets_dir = "{tmp_path}"\n')
    monkeypatch.chdir(tmp_path)

    assert load_settings().task_queue == "file"


def test_a_folder_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without its secrets does not start."""
    monkeypatch.setenv("PERDURE_SECRETS_DIR", "/nowhere/at/all")

    with pytest.raises(SettingsError, match="/nowhere/at/all"):
        load_settings()


def test_without_keys_nothing_is_encrypted() -> None:
    """Which is the default."""
    assert Settings().keyring() is None


def test_the_only_key_encrypts(monkeypatch: pytest.MonkeyPatch) -> None:
    """It need not be named; of several, one is."""
    monkeypatch.setenv("PERDURE_ENCRYPTION_KEYS", json.dumps({"a": A}))
    one = load_settings().keyring()
    monkeypatch.setenv("PERDURE_ENCRYPTION_KEYS", json.dumps({"a": A, "b": B}))
    monkeypatch.setenv("PERDURE_ENCRYPTION_KEY_ID", "b")
    two = load_settings().keyring()

    assert one is not None
    assert two is not None
    assert (one.current, two.current) == ("a", "b")


@pytest.mark.parametrize(
    ("keys", "key_id", "problem"),
    [
        (json.dumps({"good": A, "bad": B[:-8]}), "good", "PERDURE_ENCRYPTION_KEYS: the key 'bad' is not the base64"),
        (json.dumps({"a": A, "b": A}), "b", "PERDURE_ENCRYPTION_KEYS: the keys 'a' and 'b' are the same"),
        (json.dumps({"a": A, "b": B}), None, "PERDURE_ENCRYPTION_KEY_ID: it is not set, and .*: a, b"),
        (json.dumps({"a": A}), "b", "PERDURE_ENCRYPTION_KEY_ID: there is no key 'b', and .*: a"),
        (None, "b", "PERDURE_ENCRYPTION_KEY_ID: there is no key 'b', and .*: there are none"),
        (A, None, '"encryption_keys"'),
        (json.dumps([A]), None, "PERDURE_ENCRYPTION_KEYS: Input should be a valid dictionary"),
        (json.dumps({"a": [A]}), None, "PERDURE_ENCRYPTION_KEYS__A: Input should be a valid string"),
    ],
)
def test_wrong_keys_stop_the_program_and_stay_secret(
    monkeypatch: pytest.MonkeyPatch, keys: str | None, key_id: str | None, problem: str
) -> None:
    """The message names the setting and the key's id; no key is in it, nor in the traceback that debugging prints."""
    for name, value in {"KEYS": keys, "KEY_ID": key_id}.items():
        if value is not None:
            monkeypatch.setenv(f"PERDURE_ENCRYPTION_{name}", value)

    with pytest.raises(SettingsError, match=problem) as raised:
        load_settings()

    told = "".join(traceback.format_exception(raised.value))
    assert not any(key[:16] in told for key in (A, B))


def test_an_image_that_was_built_without_a_build_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is there and empty, and workers are not versioned; what Temporal could not take is refused."""
    monkeypatch.setenv("PERDURE_BUILD_ID", "")
    monkeypatch.setenv("PERDURE_DEPLOYMENT_NAME", "")

    assert (load_settings().deployment_name, load_settings().build_id) == (None, None)
    with pytest.raises(SettingsError, match="PERDURE_DEPLOYMENT_NAME"):
        load_settings(deployment_name="my.shop")
