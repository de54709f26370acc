"""Compression: large payloads shrink, small ones stay readable, damage is named."""

from __future__ import annotations

import os

import pytest
from temporalio.api.common.v1 import Payload

from perdure.codec import ENCODING, ZstdCodec, decode_payloads


def payload(data: bytes) -> Payload:
    """A JSON payload."""
    return Payload(metadata={"encoding": b"json/plain"}, data=data)


async def test_large_payloads_are_compressed_and_come_back() -> None:
    """Above the threshold a payload is Zstandard, below it is as it was."""
    codec = ZstdCodec(100)
    small, large = payload(b'"small"'), payload(b'"' + b"word " * 1000 + b'"')

    encoded = await codec.encode([small, large])

    assert encoded[0] == small
    assert encoded[1].metadata["encoding"] == ENCODING
    assert len(encoded[1].data) < 200
    assert await codec.decode(encoded) == [small, large]


async def test_what_does_not_gain_is_left_alone() -> None:
    """Random bytes stay as they are, and so does everything with threshold 0."""
    noise, text = payload(os.urandom(5000)), payload(b"a" * 5000)

    assert await ZstdCodec(100).encode([noise]) == [noise]
    assert await ZstdCodec(0).encode([text]) == [text]


async def test_damage_is_an_error_that_says_so() -> None:
    """A cut or garbled payload is refused, not guessed at."""
    [encoded] = await ZstdCodec(100).encode([payload(b"a" * 5000)])
    short = Payload(metadata=encoded.metadata, data=encoded.data[:-5])
    garbled = Payload(metadata=encoded.metadata, data=b"nonsense")

    for broken, said in [(short, "cut short"), (garbled, "damaged")]:
        with pytest.raises(ValueError, match=said):
            decode_payloads([broken])
