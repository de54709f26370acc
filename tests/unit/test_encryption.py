"""Encryption of payloads: what goes in comes out, nothing of it shows, and what is wrong is said with the key's id."""

from __future__ import annotations

import base64
import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure
from temporalio.converter import (
    DataConverter,
    DefaultFailureConverter,
    DefaultFailureConverterWithEncodedAttributes,
    PayloadCodec,
)

from perdure.codec import ZstdCodec, data_converter, payload_codec
from perdure.encryption import ENCODING, KEY_ID, SEALED, Keyring, new_key, seal, unseal
from perdure.errors import ConfigurationError, DecryptionError
from tests.workflows.test_embedded import Backwards

OLD, NEW = new_key(), new_key()
KEYRING = Keyring({"old": OLD, "new": NEW}, current="new")
PAYLOAD = Payload(metadata={"encoding": b"json/plain", "note": b"a quince"}, data=b'"another quince"')
PAYLOADS = st.builds(
    lambda metadata, data: Payload(metadata=metadata, data=data),
    st.dictionaries(st.text(max_size=20), st.binary(max_size=50), max_size=3),
    st.binary(max_size=5000),
)


def codec(keyring: Keyring = KEYRING) -> PayloadCodec:
    """The codec of our own converter."""
    return payload_codec(keyring=keyring)


@given(payload=PAYLOADS)
async def test_what_goes_in_comes_out(payload: Payload) -> None:
    """Any payload, of any size, is the same after both ways."""
    encoded = await codec().encode([payload])

    assert await codec().decode(encoded) == [payload]


async def test_nothing_of_a_payload_shows() -> None:
    """Neither its data nor its metadata; only whose key it takes."""
    [encoded] = await codec().encode([PAYLOAD])

    assert b"quince" not in encoded.SerializeToString()
    assert dict(encoded.metadata) == {"encoding": ENCODING, KEY_ID: b"new"}


async def test_no_two_payloads_share_a_nonce() -> None:
    """The same payload is another one each time it is encrypted."""
    encoded = await codec().encode([PAYLOAD] * 1000)

    assert len({payload.data[:12] for payload in encoded}) == 1000
    assert len({payload.data[12:] for payload in encoded}) == 1000


async def test_payloads_are_compressed_before() -> None:
    """What is encrypted does not shrink any more, so it is compressed first, and above 1 KiB always."""
    large = Payload(metadata={"encoding": b"json/plain"}, data=b'"' + b"word " * 1000 + b'"')

    [encoded] = await codec().encode([large])
    [never] = await payload_codec(keyring=KEYRING, compress_above=0).encode([large])

    assert len(encoded.data) < 200
    assert len(never.data) > 5000


@given(place=st.integers(min_value=0), flip=st.integers(1, 255))
def test_a_changed_payload_is_refused(place: int, flip: int) -> None:
    """Whichever byte is changed, of nonce, content or tag."""
    encrypted = KEYRING.encrypt(PAYLOAD)
    data = bytearray(encrypted.data)
    data[place % len(data)] ^= flip

    with pytest.raises(DecryptionError, match=r"'new'.*changed or cut"):
        KEYRING.decrypt(Payload(metadata=encrypted.metadata, data=bytes(data)))


@given(length=st.integers(min_value=0))
def test_a_cut_payload_is_refused(length: int) -> None:
    """Wherever it was cut, down to nothing."""
    encrypted = KEYRING.encrypt(PAYLOAD)

    with pytest.raises(DecryptionError, match=r"'new'.*cut"):
        KEYRING.decrypt(Payload(metadata=encrypted.metadata, data=encrypted.data[: length % len(encrypted.data)]))


def test_the_id_of_the_key_is_part_of_what_is_protected() -> None:
    """A payload that is passed off as another key's is refused, even where both ids have the same key."""
    encrypted = Keyring({"a": OLD}).encrypt(PAYLOAD)
    encrypted.metadata[KEY_ID] = b"b"

    with pytest.raises(DecryptionError, match="'b'"):
        Keyring({"b": OLD}).decrypt(encrypted)


def test_a_missing_key_is_named_and_no_key_is_told() -> None:
    """The error says which key is missing and which ones are there, by their ids."""
    encrypted = KEYRING.encrypt(PAYLOAD)

    with pytest.raises(DecryptionError, match=r"'new', which is not among PERDURE_ENCRYPTION_KEYS \(old\)") as raised:
        Keyring({"old": OLD}).decrypt(encrypted)

    assert raised.value.key_id == "new"
    assert OLD.get_secret_value() not in str(raised.value) + repr(Keyring({"old": OLD}))


async def test_without_any_key_an_encrypted_payload_is_refused_by_its_keys_id() -> None:
    """Whoever forgot to set the keys is told which one is needed, not that an encoding is unknown."""
    encrypted = KEYRING.encrypt(PAYLOAD)

    with pytest.raises(DecryptionError, match=r"'new', which is not among PERDURE_ENCRYPTION_KEYS \(there are none\)"):
        await payload_codec().decode([encrypted])


async def test_old_keys_decrypt_and_the_current_one_encrypts() -> None:
    """What was written before a rotation is read after it."""
    before = await codec(Keyring({"old": OLD})).encode([PAYLOAD])
    after = await codec().encode([PAYLOAD])

    assert await codec().decode([*before, *after]) == [PAYLOAD, PAYLOAD]
    assert [payload.metadata[KEY_ID] for payload in (*before, *after)] == [b"old", b"new"]


async def test_what_is_not_encrypted_passes() -> None:
    """Signals sent by hand, and runs from before there was a key, compressed or not."""
    large = Payload(data=b"a" * 50_000)
    plain = [PAYLOAD, *await ZstdCodec().encode([large])]

    assert await codec().decode(plain) == [PAYLOAD, large]


def test_the_form_of_an_encrypted_payload_stays() -> None:
    """What is in databases today is read by the code of tomorrow: nonce, ciphertext and tag, with the key's id."""
    key, nonce = bytes(range(32)), bytes(range(12))
    data = nonce + AESGCM(key).encrypt(nonce, PAYLOAD.SerializeToString(), b"binary/perdure-aes-256-gcm\0k1")
    stored = Payload(
        metadata={"encoding": b"binary/perdure-aes-256-gcm", "encryption-key-id": b"k1"},
        data=data,
    )

    assert Keyring({"k1": SecretStr(base64.b64encode(key).decode())}).decrypt(stored) == PAYLOAD


@pytest.mark.parametrize(
    ("key_id", "key"),
    [
        ("short", base64.b64encode(os.urandom(16)).decode()),
        ("long", base64.b64encode(os.urandom(33)).decode()),
        ("text", "correct horse battery staple"),
        ("empty", ""),
        ("foreign", "ü" * 44),
    ],
)
def test_what_is_no_key_is_refused_by_its_id(key_id: str, key: str) -> None:
    """The message says which one is wrong, and does not repeat it."""
    with pytest.raises(ValueError, match=f"the key '{key_id}' is not the base64 of 32 bytes") as raised:
        Keyring({key_id: SecretStr(key)})

    assert not key or key not in str(raised.value)


@pytest.mark.parametrize("key_id", ["", "a b", "-a", "ä", "a" * 65, "a\n"])
def test_what_is_no_key_id_is_refused(key_id: str) -> None:
    """An id stands in metadata, file names and messages."""
    with pytest.raises(ValueError, match="is no key id"):
        Keyring({key_id: new_key()})


def test_it_is_clear_which_key_encrypts() -> None:
    """The only one, or the one that is chosen; never a guess."""
    with pytest.raises(ValueError, match=r"it is not set.*new, old"):
        Keyring({"old": OLD, "new": NEW})
    with pytest.raises(ValueError, match=r"no key 'newer'.*new, old"):
        Keyring({"old": OLD, "new": NEW}, current="newer")

    assert Keyring({"old": OLD}).current == "old"


async def test_a_text_of_temporals_is_sealed_and_opened() -> None:
    """With a key it is unreadable and comes back; without, it is what it was."""
    encrypting, plain = data_converter(keyring=KEYRING), data_converter()

    sealed = await seal("wrong quince", encrypting)

    assert sealed.startswith(SEALED)
    assert "quince" not in sealed
    assert b"quince" not in base64.b64decode(sealed.removeprefix(SEALED))
    assert await unseal(sealed, encrypting) == "wrong quince"
    assert await seal("wrong quince", plain) == "wrong quince"
    assert await seal("", encrypting) == ""


@pytest.mark.parametrize(
    "text",
    [
        "a reason",
        SEALED,
        f"{SEALED}not base64!",
        SEALED + base64.b64encode(b"\xff\xff").decode(),
        SEALED + base64.b64encode(PAYLOAD.SerializeToString()).decode(),
        SEALED + base64.b64encode(Keyring({"lost": new_key()}).encrypt(PAYLOAD).SerializeToString()).decode(),
    ],
)
async def test_what_cannot_be_opened_stays(text: str) -> None:
    """Anybody can write such a text with the `temporal` command; it must not break who reads it."""
    assert await unseal(text, data_converter(keyring=KEYRING)) == text


async def test_failures_say_nothing_in_plain_text() -> None:
    """Message, stack trace and details, also of causes, are encrypted and come back."""
    converter, failure = data_converter(keyring=KEYRING), Failure()
    try:
        try:
            raise KeyError("an inner quince")
        except KeyError as inner:
            raise ValueError("an outer quince") from inner
    except ValueError as error:
        await converter.encode_failure(error, failure)

    assert b"quince" not in failure.SerializeToString()
    assert b"test_encryption.py" not in failure.SerializeToString()
    again = await converter.decode_failure(failure)
    assert (str(again), str(again.__cause__)) == ("ValueError: an outer quince", "KeyError: 'an inner quince'")


def test_a_converter_that_its_owner_chose_stays() -> None:
    """A codec of another kind is left alone while there is no key, and a failure converter always."""

    class Own(DefaultFailureConverter):
        """The owner's."""

    codec = Backwards()

    assert data_converter(DataConverter(payload_codec=codec)).payload_codec is codec
    assert data_converter(DataConverter(failure_converter_class=Own), keyring=KEYRING).failure_converter_class is Own
    assert data_converter().failure_converter_class is DefaultFailureConverter
    assert data_converter(keyring=KEYRING).failure_converter_class is DefaultFailureConverterWithEncodedAttributes


@pytest.mark.parametrize("chosen", [Backwards(), ZstdCodec()])
def test_keys_that_a_chosen_codec_would_not_use_are_refused(chosen: PayloadCodec) -> None:
    """Whoever sets keys is not left with plain text."""
    with pytest.raises(ConfigurationError, match=f"{type(chosen).__name__}, which does not encrypt"):
        data_converter(DataConverter(payload_codec=chosen), keyring=KEYRING)
