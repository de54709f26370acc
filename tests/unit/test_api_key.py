"""The text of an API key: what is one, what is kept of it, and that it shows itself to nobody by accident."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.api_key import ApiKeyRecord, KeyText
from perdure.principal import Scope


def record_of(key: KeyText) -> ApiKeyRecord:
    """Return what is kept of a key."""
    return ApiKeyRecord(
        key_id=key.key_id,
        name="shop",
        digest=key.digest,
        user="shop",
        org="acme",
        scopes=(Scope.RUNS_READ,),
        created_by="ann",
        created_at=datetime(2026, 11, 1, tzinfo=UTC),
    )


def test_a_key_is_read_as_it_was_written() -> None:
    """Whatever the secret's characters are, the text has both parts back; no two keys are alike."""
    keys = [KeyText.new() for _ in range(200)]

    assert [KeyText.parse(key.text) for key in keys] == keys
    assert len({key.text for key in keys}) == len(keys)
    assert all(key.text.startswith(f"pdk_{key.key_id}_") for key in keys)


def test_only_the_whole_secret_opens_a_record() -> None:
    """A key opens its own record, and no other key does, however alike."""
    key = KeyText.new()
    last = "A" if key.secret[-1] != "A" else "B"

    assert key.opens(record_of(key))
    assert not KeyText(key.key_id, key.secret[:-1] + last).opens(record_of(key))
    assert not KeyText.new().opens(record_of(key))


@given(st.text(max_size=80) | st.from_regex(r"pdk_[0-9a-f]{16}_[\w-]{0,60}", fullmatch=True))
def test_what_is_no_key_is_not_read_as_one(text: str) -> None:
    """A text is read as a key only if writing that key gives the text."""
    key = KeyText.parse(text)

    assert key is None or key.text == text


@pytest.mark.parametrize("change", ["{} ", " {}", "{}\n", "x{}", "{}x"])
def test_a_key_with_something_around_it_is_none(change: str) -> None:
    """Not even a line break at its end."""
    assert KeyText.parse(change.format(KeyText.new().text)) is None


def test_a_key_is_not_shown_by_accident() -> None:
    """Neither logs nor tracebacks, which print values, have the secret; nor has the record."""
    key = KeyText.new()

    shown = f"{key} {key!r} {record_of(key)!r} {record_of(key).model_dump_json()}"

    assert key.key_id in shown
    assert key.secret not in shown


def test_a_scope_that_a_newer_version_gave_is_left_out() -> None:
    """An older replica still reads the record, and gives its holder what it knows."""
    stored = record_of(KeyText.new()).model_dump(mode="json") | {"scopes": ["runs:read", "moon:land"]}

    record = ApiKeyRecord.model_validate(stored)

    assert record.principal.scopes == (Scope.RUNS_READ,)
