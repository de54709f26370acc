"""Encryption of payloads on their way into Temporal: AES-256-GCM, by key id, so that keys can be rotated.

Galois/Counter Mode is NIST SP 800-38D, here with the parameters of RFC 5116's AEAD_AES_256_GCM: a key of 32 bytes, a
nonce of 96 bits, a tag of 128. Each payload gets a nonce of its own from the system's random source. For such nonces SP
800-38D (section 8.3) allows a key 2**32 payloads, with which the chance that any two share a nonce is at most 2**-32: a
thousand payloads a second for seven weeks. Rotate before that; old payloads are read with the key they name.

What is encrypted is a whole payload, its metadata included, after compression. In plain text stay the key's id and the
length. A payload is not bound to its run: this keeps what Temporal stores from being read. It does not keep those who
can write to Temporal from moving a payload or sending one of their own, which signals by hand need to be able to.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.protobuf.message import DecodeError
from pydantic import SecretStr
from temporalio.api.common.v1 import Payload
from temporalio.converter import DataConverter, PayloadCodec

from perdure.errors import DecryptionError

ENCODING: Final = b"binary/perdure-aes-256-gcm"
KEY_ID: Final = "encryption-key-id"
"""Metadata: the id of the key, as Temporal's own samples name it."""
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
SEALED: Final = "perdure-sealed:"
"""Begins a text of Temporal's that is no payload, and therefore holds one."""

_KEY_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Keyring:
    """Keys by id: one encrypts, all decrypt."""

    def __init__(self, keys: Mapping[str, SecretStr], *, current: str | None = None) -> None:
        """Take the keys.

        Args:
            keys: By id, each the base64 of 32 random bytes.
            current: The id of the key that encrypts; it need not be named if there is only one.

        Raises:
            ValueError: A key is none, or it is not clear which one encrypts. The message names ids and no key.
        """
        self._keys = {key_id: AESGCM(read_key(key_id, key)) for key_id, key in keys.items()}
        self.current = current_key(keys, current)

    def __repr__(self) -> str:
        return f"Keyring({sorted(self._keys)!r}, current={self.current!r})"

    def encrypt(self, payload: Payload) -> Payload:
        """Return the payload, encrypted with the current key, inside another one."""
        nonce = os.urandom(NONCE_BYTES)
        key_id = self.current.encode()
        sealed = self._keys[self.current].encrypt(nonce, payload.SerializeToString(), _associated(key_id))
        return Payload(metadata={"encoding": ENCODING, KEY_ID: key_id}, data=nonce + sealed)

    def decrypt(self, payload: Payload) -> Payload:
        """Return the payload that `encrypt` was given.

        Raises:
            DecryptionError: Its key is not here, or it was changed or cut.
        """
        named = payload.metadata.get(KEY_ID, b"")
        key_id = named.decode("utf-8", "replace")
        key = self._keys.get(key_id)
        if key is None:
            raise DecryptionError(
                f"a payload is encrypted with the key {key_id!r}, which is not among PERDURE_ENCRYPTION_KEYS "
                f"({', '.join(sorted(self._keys))})",
                key_id=key_id,
            )
        nonce, sealed = payload.data[:NONCE_BYTES], payload.data[NONCE_BYTES:]
        if len(sealed) < TAG_BYTES:
            raise DecryptionError(f"a payload encrypted with the key {key_id!r} is cut short", key_id=key_id)
        try:
            return Payload.FromString(key.decrypt(nonce, sealed, _associated(named)))
        except InvalidTag as error:
            raise DecryptionError(
                f"a payload is not what was encrypted with the key {key_id!r}: it was changed or cut, or another key "
                "has that id here",
                key_id=key_id,
            ) from error
        except DecodeError as error:
            raise DecryptionError(
                f"what was encrypted with the key {key_id!r} is no payload of Temporal's", key_id=key_id
            ) from error


class EncryptionCodec(PayloadCodec):
    """Has another codec compress payloads, then encrypts them."""

    def __init__(self, keyring: Keyring, compression: PayloadCodec) -> None:
        self._keyring = keyring
        self._compression = compression

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Compress and encrypt."""
        # At 2 MB, the largest payload there is, encrypting takes less than a millisecond, a third of what compressing
        # takes: nothing to leave the event loop for.
        return [self._keyring.encrypt(payload) for payload in await self._compression.encode(payloads)]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Undo `encode`. What is not encrypted passes: signals sent by hand, and runs from before there was a key.

        Raises:
            DecryptionError: A payload's key is not here, or the payload was changed or cut.
        """
        return await self._compression.decode(
            [self._keyring.decrypt(payload) if is_encrypted(payload) else payload for payload in payloads]
        )


def is_encrypted(payload: Payload) -> bool:
    """Whether a payload is one that `Keyring.encrypt` made."""
    return payload.metadata.get("encoding") == ENCODING


def require_plain(payload: Payload) -> None:
    """Refuse to take an encrypted payload for a plain one, where there are no keys at all.

    Raises:
        DecryptionError: It is encrypted.
    """
    if is_encrypted(payload):
        key_id = payload.metadata.get(KEY_ID, b"").decode("utf-8", "replace")
        raise DecryptionError(
            f"a payload is encrypted with the key {key_id!r}, and there are no PERDURE_ENCRYPTION_KEYS", key_id=key_id
        )


def new_key() -> SecretStr:
    """Return a new key, in base64."""
    return SecretStr(base64.b64encode(AESGCM.generate_key(8 * KEY_BYTES)).decode())


def read_key(key_id: str, key: SecretStr) -> bytes:
    """Return a key's bytes.

    Raises:
        ValueError: The id cannot be one, or the key is not the base64 of 32 bytes; the message does not repeat the key.
    """
    if not _KEY_ID.fullmatch(key_id):
        raise ValueError(f"{key_id!r} is no key id: at most 64 letters, digits and '._-', a letter or digit first")
    try:
        read = base64.b64decode(key.get_secret_value().strip(), validate=True)
    except (binascii.Error, ValueError):
        read = b""
    if len(read) != KEY_BYTES:
        raise ValueError(
            f"the key {key_id!r} is not the base64 of {KEY_BYTES} bytes, as 'perdure encryption new-key' makes"
        )
    return read


def current_key(keys: Iterable[str], chosen: str | None) -> str:
    """Return the id of the key that encrypts.

    Raises:
        ValueError: It is not among the keys, or none is chosen and there are several.
    """
    ids = sorted(keys)
    if chosen is None and len(ids) == 1:
        return ids[0]
    if chosen not in ids:
        wrong = "it is not set" if chosen is None else f"there is no key {chosen!r}"
        raise ValueError(f"{wrong}, and it must be the id of a key: {', '.join(ids) or 'there are none'}")
    return chosen


async def seal(text: str, converter: DataConverter) -> str:
    """Return a text for one of Temporal's fields that are no payloads, such as the reason of a cancellation.

    It holds the text as an encrypted payload, if the converter encrypts; else it is the text.
    """
    if not text:
        return text
    [payload] = await converter.encode([text])
    return SEALED + base64.b64encode(payload.SerializeToString()).decode() if is_encrypted(payload) else text


async def unseal(text: str, converter: DataConverter) -> str:
    """Return the text that `seal` was given; any other text, and one whose key is not here, as it is."""
    if not text.startswith(SEALED):
        return text
    try:
        payload = Payload.FromString(base64.b64decode(text.removeprefix(SEALED), validate=True))
        if not is_encrypted(payload):  # anybody can write such a text; only what `seal` wrote is read
            return text
        opened: list[str] = await converter.decode([payload], [str])
    except (ValueError, DecodeError, DecryptionError):
        return text
    return opened[0]


def _associated(key_id: bytes) -> bytes:
    return ENCODING + b"\0" + key_id
