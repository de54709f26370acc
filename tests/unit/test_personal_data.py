"""Personal data: found by Presidio without a language model and without the network, and off by default."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.errors import SettingsError
from perdure.events import RunStarted
from perdure.personal_data import MAX_PIECE, PersonalDataRedactor, load_redactor
from perdure.redaction import SECRETS, redact_json, redact_model
from perdure.settings import Settings

KEY = "sk-" + "ant-api03-A1b2C3d4E5f6G7h8J9k0"


@pytest.fixture(scope="module")
def presidio() -> PersonalDataRedactor:
    """One for all tests, as loading it takes seconds."""
    return PersonalDataRedactor()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("write to ann.lee@shop.example.com, please", "write to [email], please"),
        ("call +44 20 7946 0958 today", "call [phone] today"),
        ("from DE89 3704 0044 0532 0130 00 to GB82WEST12345698765432", "from [iban] to [iban]"),
        ("pay 4111 1111 1111 1111 now", "pay [card] now"),
        ("her number is 219-09-9999", "her number is [ssn]"),
        ("ann@shop.example.com and bob@shop.example.com", "[email] and [email]"),
    ],
)
def test_personal_data_is_masked(presidio: PersonalDataRedactor, text: str, shown: str) -> None:
    """By patterns and checksums; what stands around it stays."""
    assert presidio.redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "order 1042 arrived on 2026-11-27",
        "run-0123456789abcdef0123456789abcdef",
        "c12-1f0e9a77",
        "59.90 EUR",
        "a plain text",
    ],
)
def test_other_text_is_left_alone(presidio: PersonalDataRedactor, text: str) -> None:
    """Orders, dates, sums and ids are no personal data."""
    assert presidio.redact(text) == text


def test_nothing_is_fetched(presidio: PersonalDataRedactor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the list of domains that an e-mail address would be checked against."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)

    assert presidio.redact("mail to zoe@new.example.org") == "mail to [email]"
    assert PersonalDataRedactor().redact("mail to zoe@other.example.net") == "mail to [email]"


@settings(max_examples=25, deadline=None)
@given(st.text(max_size=30), st.text("abc \n", max_size=MAX_PIECE + 50))
def test_a_long_text_is_looked_at_in_pieces(presidio: PersonalDataRedactor, before: str, filler: str) -> None:
    """An address behind the first piece is found too, and nothing else changes."""
    text = f"{filler} ann@shop.example.com {filler}"

    assert presidio.redact(text) == f"{filler} [email] {filler}"


def test_with_it_secrets_and_personal_data_are_masked_in_json_and_events() -> None:
    """Both stages apply; who did something, and ids, stay as they are."""
    redactor = load_redactor(Settings(pii="presidio"))
    event = RunStarted.model_validate(
        {
            "id": "0.1",
            "at": "2026-11-27T09:00:00Z",
            "agent": "support",
            "version": "1",
            "model": "anthropic:m",
            "input": f"I am ann@shop.example.com, key {KEY}",
            "user": "ann@shop.example.com",
        }
    )

    shown = redact_model(event, redactor)

    assert redact_json({"mail": ["ann@shop.example.com"], "n": 1}, redactor) == {"mail": ["[email]"], "n": 1}
    assert shown.input == "I am [email], key [secret]"
    assert shown.user == "ann@shop.example.com"
    assert load_redactor(Settings(pii="presidio")) is redactor


def test_it_is_off_by_default() -> None:
    """An address is no secret: without the setting it is shown."""
    assert load_redactor(Settings()) is SECRETS
    assert SECRETS.redact("ann@shop.example.com") == "ann@shop.example.com"


def test_a_missing_extra_stops_the_process_at_start_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever switches it on must not believe that it works where it is not installed."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(SettingsError, match=r"perdure\[pii\]"):
        load_redactor(Settings(pii="presidio"))
