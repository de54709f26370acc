"""What payloads go through on their way into history: large ones are compressed, and with a key all are encrypted.

Without a key, small ones stay readable everywhere.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace

from temporalio.api.common.v1 import Payload
from temporalio.contrib.pydantic import PydanticPayloadConverter
from temporalio.converter import (
    DataConverter,
    DefaultFailureConverter,
    DefaultFailureConverterWithEncodedAttributes,
    DefaultPayloadConverter,
    PayloadCodec,
)

from perdure.encryption import EncryptionCodec, Keyring, require_plain
from perdure.errors import ConfigurationError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ENCODING = b"binary/perdure-zstd"
DEFAULT_THRESHOLD = 16 * 1024
ENCRYPTED_THRESHOLD = 1024
"""What is encrypted cannot be read in place, so nothing speaks for leaving it large."""
MAX_DECODED_BYTES = 64 * 1024 * 1024
"""A payload that would grow beyond this is refused; nothing of ours comes near it."""


class ZstdCodec(PayloadCodec):
    """Compress payloads above a size with Zstandard (RFC 8878), as a whole payload inside a payload."""

    def __init__(self, threshold: int = DEFAULT_THRESHOLD) -> None:
        self._threshold = threshold

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Compress what is large and gains from it."""
        return [self._encode(payload) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Undo `encode`; payloads that were not compressed pass unchanged.

        Raises:
            DecryptionError: A payload is encrypted, and there are no keys here.
        """
        for payload in payloads:
            require_plain(payload)
        return decode_payloads(payloads)

    def _encode(self, payload: Payload) -> Payload:
        if not self._threshold or len(payload.data) <= self._threshold:
            return payload
        compressed = zstd.compress(payload.SerializeToString())
        if len(compressed) >= len(payload.data):
            return payload
        return Payload(metadata={"encoding": ENCODING}, data=compressed)


def decode_payloads(payloads: Iterable[Payload]) -> list[Payload]:
    """Decompress those payloads that `ZstdCodec` compressed.

    Raises:
        ValueError: A payload is damaged or decompresses to more than 64 MiB.
    """
    return [_decode(payload) if payload.metadata.get("encoding") == ENCODING else payload for payload in payloads]


def _decode(payload: Payload) -> Payload:
    decompressor = zstd.ZstdDecompressor()
    try:
        data = decompressor.decompress(payload.data, max_length=MAX_DECODED_BYTES)
    except zstd.ZstdError as error:
        raise ValueError(f"a compressed payload is damaged: {error}") from error
    if not decompressor.eof:
        raise ValueError(f"a compressed payload is cut short, or larger than {MAX_DECODED_BYTES:,} bytes")
    return Payload.FromString(data)


def payload_codec(*, compress_above: int = DEFAULT_THRESHOLD, keyring: Keyring | None = None) -> PayloadCodec:
    """Return the codec of these settings.

    Args:
        compress_above: Bytes; 0 never compresses. With a keyring, at most 1 KiB.
        keyring: Encrypts what is compressed; None: nothing is encrypted.
    """
    if keyring is None:
        return ZstdCodec(compress_above)
    return EncryptionCodec(keyring, ZstdCodec(min(compress_above, ENCRYPTED_THRESHOLD)))


def data_converter(
    existing: DataConverter | None = None,
    *,
    compress_above: int = DEFAULT_THRESHOLD,
    keyring: Keyring | None = None,
) -> DataConverter:
    """Return a converter that speaks Pydantic JSON, compresses large payloads, and with a keyring encrypts all of them.

    Args:
        existing: A converter to complete; a payload converter or codec that its owner chose (say, encryption) stays.
        compress_above: Bytes; 0 never compresses.
        keyring: Encrypts payloads, and what failures say.

    Raises:
        ConfigurationError: There is a keyring, and the owner chose a codec that does not use it.
    """
    converter = existing or DataConverter.default
    if converter.payload_converter_class is DefaultPayloadConverter:
        converter = replace(converter, payload_converter_class=PydanticPayloadConverter)
    if converter.payload_codec is None:
        converter = replace(converter, payload_codec=payload_codec(compress_above=compress_above, keyring=keyring))
    if keyring is not None:
        require_encryption(converter)
        if converter.failure_converter_class is DefaultFailureConverter:
            converter = replace(converter, failure_converter_class=DefaultFailureConverterWithEncodedAttributes)
    return converter


def require_encryption(converter: DataConverter) -> None:
    """Refuse a converter that would not encrypt where the settings say that payloads are.

    Raises:
        ConfigurationError: Its codec is not Perdure's.
    """
    codec = converter.payload_codec
    if not isinstance(codec, EncryptionCodec):
        name = type(codec).__name__ if codec else "no codec"
        raise ConfigurationError(
            f"PERDURE_ENCRYPTION_KEYS is set, but the client has {name}, which does not encrypt with them: give the "
            "client to perdure without a codec, Client.connect(…, plugins=[Perdure(app)]), or take the keys away"
        )
