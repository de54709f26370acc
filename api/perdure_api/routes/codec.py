"""Temporal's remote codec: unpacks compressed payloads for the Web UI and the `temporal` command.

It needs no key, as it only unpacks what the caller sends; nothing is read from anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Body
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from pydantic import BaseModel, ConfigDict
from temporalio.api.common.v1 import Payload
from temporalio.api.common.v1 import Payloads as Decoded

from perdure.codec import decode_payloads
from perdure.errors import InputTooLargeError, InvalidInputError
from perdure.messages import JsonObject
from perdure_api.problems import WITH_BODY, problems

router = APIRouter(prefix="/codec", tags=["codec"])

MAX_UNPACKED_BYTES: Final = 16 * 1024 * 1024
"""Of one request: several times what one event of a history can hold. Anyone may ask, and writing this much as JSON
takes a third of a second in which nobody else is answered."""

EXAMPLE = {"payloads": [{"metadata": {"encoding": "anNvbi9wbGFpbg=="}, "data": "IkhlbGxvIg=="}]}


class Payloads(BaseModel):
    """Temporal's payloads as JSON; bytes are base64."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    payloads: tuple[JsonObject, ...] = ()


@router.post(
    "/decode",
    operation_id="decodePayloads",
    summary="Unpack payloads",
    responses={**WITH_BODY, **problems(HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.INTERNAL_SERVER_ERROR)},
)
async def decode(encoded: Annotated[Payloads, Body(examples=[EXAMPLE])]) -> Payloads:
    """Decompress those payloads that Perdure compressed; others pass unchanged."""
    try:
        parsed = ParseDict(encoded.model_dump(), Decoded())
        decoded = Decoded(payloads=_decode(parsed.payloads))
    except (ParseError, ValueError) as error:
        raise InvalidInputError(f"these are no payloads as Temporal sends them to a codec: {error}") from error
    return Payloads.model_validate(MessageToDict(decoded))


def _decode(payloads: Iterable[Payload]) -> list[Payload]:
    decoded: list[Payload] = []
    size = 0
    for payload in payloads:
        decoded += decode_payloads([payload])
        size += decoded[-1].ByteSize()
        if size > MAX_UNPACKED_BYTES:
            raise InputTooLargeError(f"unpacked, the payloads are more than {MAX_UNPACKED_BYTES:,} bytes")
    return decoded
