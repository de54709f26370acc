"""Settings that depend on each other: who may call the API, and where it may listen."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from perdure.errors import SettingsError
from perdure.settings import Settings, load_settings

OIDC = {"issuer": "https://login.example", "audience": "perdure"}


@pytest.mark.parametrize(
    ("given", "required"),
    [
        ({}, False),
        ({"auth": "open"}, False),
        ({"auth": "required"}, True),
        ({"oidc": OIDC}, True),
        ({"oidc": OIDC, "auth": "required"}, True),
        ({"oidc": OIDC, "auth": "open"}, False),
    ],
)
def test_the_api_asks_who_calls_if_it_is_told_to_or_has_an_issuer(given: dict[str, Any], required: bool) -> None:
    """Whoever configures an issuer does not also have to close the door."""
    assert Settings(**given).auth_required is required


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_an_open_api_may_listen_on_loopback(host: str) -> None:
    """As on a developer's machine."""
    Settings(api_host=host).check_exposure()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", "localhost.example.com", ""])
def test_an_open_api_may_listen_nowhere_else(host: str) -> None:
    """One that asks who calls may."""
    Settings(api_host=host, auth="required").check_exposure()

    with pytest.raises(SettingsError, match="PERDURE_AUTH=required"):
        Settings(api_host=host).check_exposure()


def test_the_issuer_comes_from_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each field has one."""
    for name, value in {**OIDC, "org_claim": "tenant", "jwks_url": "https://login.example/keys"}.items():
        monkeypatch.setenv(f"PERDURE_OIDC__{name.upper()}", value)

    oidc = load_settings().oidc

    assert oidc is not None
    assert (oidc.issuer, oidc.org_claim, oidc.user_claim) == ("https://login.example", "tenant", "sub")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"audience": None}, "PERDURE_OIDC__AUDIENCE"),
        ({"issuer": "login.example"}, "PERDURE_OIDC__ISSUER"),
        ({"jwks_url": "file:///etc/passwd"}, "PERDURE_OIDC__JWKS_URL"),
        ({"org": 'a"b'}, "PERDURE_OIDC__ORG"),
        ({"org_clam": "tenant"}, "PERDURE_OIDC__ORG_CLAM"),
    ],
)
def test_a_mistake_in_the_issuer_is_named(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, str | None], named: str
) -> None:
    """As the variable that it was made in."""
    for name, value in {**OIDC, **changes}.items():
        if value is not None:
            monkeypatch.setenv(f"PERDURE_OIDC__{name.upper()}", value)

    with pytest.raises(SettingsError, match=named):
        load_settings()


def test_the_static_key_of_old_is_no_setting() -> None:
    """Nobody believes to have locked the API with it."""
    with pytest.raises(ValidationError, match="api_key"):
        Settings(api_key="secret")  # type: ignore[call-arg]
