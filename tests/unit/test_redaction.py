"""Redaction: secrets are masked by form and by name, ids and counts are not, and no text takes long."""

from __future__ import annotations

import base64
import contextvars
import json
import time
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.redaction import (
    MAX_DEPTH,
    MAX_VALUES,
    SECRETS,
    TOO_DEEP,
    TOO_MUCH,
    ValueRedactor,
    in_hand,
    redact_json,
    take_in_hand,
)
from perdure.secret_arguments import mask_arguments, secret_values, unmask_arguments
from perdure.secret_forms import is_card_number
from perdure.secret_names import is_secret_name

RANDOM = "A1b2C3d4E5f6G7h8J9k0L1m2N3p4Q5r6S7t8"
PEM = "-----BEGIN RSA " + "PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nMIIEow+/ab==\n-----END RSA " + "PRIVATE KEY-----"
# Put together here, so that no scanner of repositories takes the tests for a leak.
SECRET_TEXTS = {
    "anthropic": "sk-" + f"ant-api03-{RANDOM}",
    "openai": "sk-" + f"proj-{RANDOM}",
    "github": "ghp" + f"_{RANDOM}",
    "github fine-grained": "github" + f"_pat_{RANDOM}",
    "gitlab": "glpat" + f"-{RANDOM}",
    "aws": "AKIA" + "IOSFODNN7EXAMPLE",
    "slack": "xoxb" + f"-123456789012-{RANDOM}",
    "google": "AIza" + f"Sy{RANDOM}",
    "stripe": "sk" + f"_live_{RANDOM}",
    "jwt": ".".join(["eyJhbGciOiJIUzI1NiJ9", "eyJzdWIiOiIxMjM0In0", RANDOM]),
    "webhook": "whsec" + f"_{base64.b64encode(RANDOM.encode()).decode()}",
    "private key": PEM,
    "private key in JSON": json.dumps(PEM)[1:-1],
}
HOSTILE = {
    "one run": "a",
    "prefixes": "sk-",
    "JWT heads": "eyJ",
    "JWT parts": "eyJabcdefgh.",
    "URLs": "://a:",
    "key heads": "-----BEGIN PRIVATE KEY-----",
    "open quotes": '"password":"',
    "escaped quotes": '\\"key\\":\\"',
    "quotes of both kinds": "\"'password' : '\\'",
    "backslashes": "\\",
    "assignments": "token=",
    "headers": "authorization: ",
    "spaces": " ",
    "digits": "4",
    "card groups": "4111 1111 ",
    "bearers": "bearer ",
}


@pytest.mark.parametrize("name", SECRET_TEXTS)
@pytest.mark.parametrize("around", ["{}", "it is {}, keep it", "({})", "url?k={}&x=1", "a\n{}\nb"])
def test_known_forms_are_masked_wherever_they_stand(name: str, around: str) -> None:
    """Nothing of a token or key is left, and what stands around it is."""
    secret = SECRET_TEXTS[name]

    shown = SECRETS.redact(around.format(secret))

    before, after = around.split("{}")
    assert shown.startswith(before + "[secret]")
    assert after.strip() in shown
    assert RANDOM[:20] not in shown
    assert "MIIEow" not in shown


def test_a_private_key_that_is_cut_off_is_masked() -> None:
    """A text that was shortened in the middle of a key shows nothing of it."""
    assert SECRETS.redact(f"here: {PEM[:70]}") == "here: [secret]"


def test_own_keys_are_told_by_their_id() -> None:
    """A key of ours keeps its id, which says what to revoke."""
    assert SECRETS.redact("key pdk" + f"_k7Qm_{RANDOM}!") == "key pdk_k7Qm_[secret]!"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('{"password": "a\\"b c", "max_tokens": 12}', '{"password": "[secret]", "max_tokens": 12}'),
        ("{'api_key': 'x y', 'n': 1}", "{'api_key': '[secret]', 'n': 1}"),
        ('{"pin_code": 1234}', '{"pin_code": "[secret]"}'),
        ('{"text": "{\\"token\\": \\"abc d\\"}"}', '{"text": "{\\"token\\": \\"[secret]\\"}"}'),
        ('{"password": "cut off he', '{"password": "[secret]'),
        ("DB_PASSWORD=hunter2 max_tokens=5", "DB_PASSWORD=[secret] max_tokens=5"),
        ('password="two words" next', 'password="[secret]" next'),
        ("https://x.example/?api_key=a%20b&page=2", "https://x.example/?api_key=[secret]&page=2"),
        ("postgres://bob:hunter2@db:5432/shop", "postgres://bob:[secret]@db:5432/shop"),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: [secret]"),
        ("Cookie: a=b; c=d\nHost: x", "Cookie: [secret]\nHost: x"),
        (f"use Bearer {RANDOM}", "use Bearer [secret]"),
        ("login: password=hunter2", "login: password=[secret]"),
        ("my password: hunter22, ok?", "my password: [secret], ok?"),
    ],
)
def test_values_behind_a_secrets_name_are_masked(text: str, shown: str) -> None:
    """JSON, Python, environments, addresses and headers: the value goes, the name stays."""
    assert SECRETS.redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "Token: the smallest unit that a model reads",
        "the cookie: a small text; bearer certificates were issued",
        "authorization: required",
        "max_tokens=100&next_page_token=abcdef0123456789",
        '{"prompt_tokens": 1200, "session_id": "chat-17", "idempotency_key": "run-1:c2"}',
        "disk-0123456789abcdef0123456789 and task-0123456789abcdef0123456789",
        "https://user@host.example/a:b@c",
        "order-4111111111111111, 0.4111111111111111, 1234 5678 9012 3456",
    ],
)
def test_prose_and_counts_are_left_alone(text: str) -> None:
    """A mask where nothing is secret hides what people look for."""
    assert SECRETS.redact(text) == text


@pytest.mark.parametrize(
    "number", ["4111111111111111", "4111 1111 1111 1111", "5500-0000-0000-0004", "378282246310005"]
)
def test_cards_are_told_by_their_checksum(number: str) -> None:
    """A card's number is masked, in a text and as a number; with another last digit it is none."""
    wrong = number[:-1] + str((int(number[-1]) + 1) % 10)

    assert SECRETS.redact(f"pay {number}.") == "pay [card]."
    assert SECRETS.redact(f"pay {wrong}.") == f"pay {wrong}."
    assert redact_json({"n": int(number.replace(" ", "").replace("-", ""))}) == {"n": "[card]"}
    assert not is_card_number(wrong)


@given(
    st.uuids(),
    st.integers(1, 100_000),
    st.binary(min_size=32, max_size=32),
    st.integers(0, 10**9),
    st.integers(0, 10**9),
)
def test_ids_are_never_redacted(one: uuid.UUID, step: int, digest: bytes, event: int, part: int) -> None:
    """Run ids, call ids, approval ids, digests, execution ids and event ids pass, in any text and under any name."""
    ids = {
        "run_id": f"run-{one.hex}",
        "call_id": f"c{step}-{digest.hex()[:8]}",
        "approval_id": f"c{step}-{digest.hex()[:8]}-outcome-1",
        "digest": digest.hex(),
        "execution_id": str(one),
        "id": f"0.{event}.{part}",
        "worker": f"{event}@worker-7f9c{digest.hex()[:5]}-x2x1z",
        "idempotency_key": f"run-{one.hex}:c{step}-{digest.hex()[:8]}",
    }

    assert redact_json(ids) == ids
    for value in ids.values():
        assert SECRETS.redact(f"so {value} is") == f"so {value} is"
    assert SECRETS.redact(json.dumps(ids)) == json.dumps(ids)


@pytest.mark.parametrize(
    "name",
    ["password", "X-Api-Key", "dbPassword", "access_token", "AWS_SECRET_ACCESS_KEY", "clientSecret", "CVV", "authToken",
     "http.request.header.authorization", "Set-Cookie", "PERDURE_API_KEY", "webhook_secrets", "card_number"],
)  # fmt: skip
def test_names_of_secrets_are_known(name: str) -> None:
    """In whichever spelling."""
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    ["max_tokens", "gen_ai.usage.input_tokens", "token_count", "next_page_token", "author", "key", "public_key",
     "secretary", "session_id", "idempotency_key", "tokenizer", "key_id", "passport", "order_id", ""],
)  # fmt: skip
def test_other_names_are_not(name: str) -> None:
    """A name that holds the word is not one."""
    assert not is_secret_name(name)


def test_json_is_masked_by_name_and_by_form() -> None:
    """What is kept under a secret's name goes whole; other texts lose what is secret in them; the rest stays."""
    value = {
        "credentials": {"user": "ann", "key": [1, 2]},
        "note": [f"key {SECRET_TEXTS['anthropic']}"],
        "token": None,
        "has_password": True,
        "amount": 59.9,
        "order": 1042,
        SECRET_TEXTS["github"]: "in a name",
    }

    assert redact_json(value) == {
        "credentials": "[secret]",
        "note": ["key [secret]"],
        "token": None,
        "has_password": True,
        "amount": 59.9,
        "order": 1042,
        "[secret]": "in a name",
    }


def test_json_that_is_too_deep_or_too_large_is_left_out_not_passed_on() -> None:
    """What nobody looked at is not shown."""
    deep: Any = SECRET_TEXTS["anthropic"]
    for _ in range(500):
        deep = [deep]

    shown = json.dumps(redact_json(deep))
    wide = redact_json(list(range(2 * MAX_VALUES)))

    assert shown == "[" * MAX_DEPTH + f'"{TOO_DEEP}"' + "]" * MAX_DEPTH
    assert wide[-1] == TOO_MUCH
    assert wide[0] == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON)
def test_redaction_is_stable(value: Any) -> None:
    """What is redacted already stays as it is, and stays JSON."""
    once = redact_json(value)

    assert redact_json(once) == once
    json.dumps(once)


@pytest.mark.parametrize("name", HOSTILE)
def test_no_text_takes_long(name: str) -> None:
    """The time grows with the text and no faster: a megabyte of the worst takes a fraction of a second of CPU."""
    unit = HOSTILE[name]
    text = (unit * (1_000_000 // len(unit) + 1))[:1_000_000]

    began = time.process_time()
    SECRETS.redact(text)

    assert time.process_time() - began < 2


ARGUMENTS = {"card_number": "4000 1234", "cvc": 123, "payer": {"name": "ann", "iban": "DE02"}, "items": [{"pin": "9"}]}
DECLARED = ("card_number", "cvc", "payer.iban", "items.pin", "absent")


def test_declared_arguments_are_masked() -> None:
    """Names, paths into objects and paths through lists; what is not declared, or not there, stays."""
    assert mask_arguments(ARGUMENTS, DECLARED) == {
        "card_number": "[secret]",
        "cvc": "[secret]",
        "payer": {"name": "ann", "iban": "[secret]"},
        "items": [{"pin": "[secret]"}],
    }
    assert mask_arguments(ARGUMENTS, ()) == ARGUMENTS
    assert mask_arguments({"payer": "no object"}, ("payer.iban",)) == {"payer": "[secret]"}


def test_an_editor_need_not_know_the_secret() -> None:
    """Arguments that an approver edits under the masks get the call's own values back; new values stay new."""
    seen = mask_arguments(ARGUMENTS, DECLARED)
    edited = {**seen, "cvc": 999, "payer": {**seen["payer"], "name": "bob"}}

    assert unmask_arguments(edited, ARGUMENTS, DECLARED) == {
        **ARGUMENTS,
        "cvc": 999,
        "payer": {"name": "bob", "iban": "DE02"},
    }


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), JSON), st.lists(st.sampled_from(["a", "b.a", "c.b.a"])))
def test_masks_that_nobody_touched_are_undone(arguments: dict[str, Any], secrets: list[str]) -> None:
    """Whatever the arguments are, masking and unmasking leads back to them."""
    assert unmask_arguments(mask_arguments(arguments, secrets), arguments, secrets) == arguments


def test_declared_values_are_found_in_other_texts() -> None:
    """An error or a result that repeats a secret argument does not show it; values of a few characters stay."""
    redactor = ValueRedactor([*secret_values(ARGUMENTS, DECLARED), 'a "quoted" one'])

    assert redactor.redact("no card 4000 1234, no DE02: 123 of 9") == "no card [secret], no [secret]: 123 of 9"
    assert redactor.redact(json.dumps({"x": 'a "quoted" one'})) == '{"x": "[secret]"}'


def test_values_in_hand_are_those_of_the_task() -> None:
    """They are known to it, and to nobody else."""

    def call() -> ValueRedactor | None:
        take_in_hand(["hunter22"])
        return in_hand()

    inside = contextvars.copy_context().run(call)

    assert inside is not None
    assert inside.redact("it is hunter22") == "it is [secret]"
    assert in_hand() is None
