"""Temporal's remote codec: makes payloads readable for the Web UI and the `temporal` command, and takes theirs.

It only works on what the caller sends; nothing is read from anywhere. With encryption on, it is for those who may read
every payload.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Body, Request
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from pydantic import BaseModel, ConfigDict
from temporalio.api.common.v1 import Payload
from temporalio.api.common.v1 import Payloads as Converted
from temporalio.converter import PayloadCodec

from perdure.errors import DecryptionError, InputTooLargeError, InvalidInputError
from perdure.messages import JsonObject
from perdure.principal import ANYONE, Principal, Scope
from perdure.settings import Settings
from perdure_api.access import Access, authorise
from perdure_api.problems import WITH_BODY, problems
from perdure_api.scoped_route import ScopedRoute, requires

OPERATORS: Final = requires(Scope.CODEC_DECODE, all_orgs=True)
"""Nothing in a payload says whose it is, so those of one organisation cannot be told from another's."""
MAX_UNPACKED_BYTES: Final = 16 * 1024 * 1024
"""Of one request: several times what one event of a history can hold. Anyone may ask, and writing this much as JSON
takes a third of a second in which nobody else is answered."""

EXAMPLE = {"payloads": [{"metadata": {"encoding": "anNvbi9wbGFpbg=="}, "data": "IkhlbGxvIg=="}]}


class CodecRoute(ScopedRoute):
    """Asks who calls where payloads are encrypted; elsewhere whoever has one can unpack it."""

    async def admit(self, request: Request, scope: Scope, *, all_orgs: bool) -> Principal:
        """Return the caller; while the API is open, that may be the Web UI's page."""
        settings: Settings = request.app.state.settings
        if not settings.encryption_keys:
            return ANYONE
        access: Access = request.app.state.access
        return await authorise(access, request, scope, all_orgs=all_orgs, page=settings.ui_url)


router = APIRouter(route_class=CodecRoute, prefix="/codec", tags=["codec"])


class Payloads(BaseModel):
    """Temporal's payloads as JSON; bytes are base64."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    payloads: tuple[JsonObject, ...] = ()


RESPONSES = {
    **WITH_BODY,
    **problems(
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
    ),
}


@router.post(
    "/decode",
    operation_id="decodePayloads",
    openapi_extra=OPERATORS,
    summary="Make payloads readable",
    responses=RESPONSES,
)
async def decode(request: Request, encoded: Annotated[Payloads, Body(examples=[EXAMPLE])]) -> Payloads:
    """Decrypt and decompress those payloads that Perdure encrypted and compressed; others pass unchanged."""
    codec: PayloadCodec = request.app.state.codec
    try:
        return _written(await _decode(codec, _read(encoded)))
    except (DecryptionError, ValueError) as error:
        raise _refusal(error) from error


@router.post(
    "/encode", operation_id="encodePayloads", openapi_extra=OPERATORS, summary="Encode payloads", responses=RESPONSES
)
async def encode(request: Request, plain: Annotated[Payloads, Body(examples=[EXAMPLE])]) -> Payloads:
    """Compress and encrypt payloads as Perdure does, for a workflow or signal that is sent by hand."""
    codec: PayloadCodec = request.app.state.codec
    try:
        return _written(await codec.encode(_read(plain)))
    except ValueError as error:
        raise _refusal(error) from error


async def _decode(codec: PayloadCodec, payloads: Iterable[Payload]) -> list[Payload]:
    decoded: list[Payload] = []
    size = 0
    for payload in payloads:
        decoded += await codec.decode([payload])
        size += decoded[-1].ByteSize()
        if size > MAX_UNPACKED_BYTES:
            raise InputTooLargeError(f"unpacked, the payloads are more than {MAX_UNPACKED_BYTES:,} bytes")
    return decoded


def _read(payloads: Payloads) -> list[Payload]:
    try:
        return list(ParseDict(payloads.model_dump(), Converted()).payloads)
    except ParseError as error:
        raise ValueError(str(error)) from error


def _written(payloads: Iterable[Payload]) -> Payloads:
    return Payloads.model_validate(MessageToDict(Converted(payloads=payloads)))


def _refusal(error: Exception) -> InvalidInputError:
    return InvalidInputError(f"these are no payloads as Temporal sends them to a codec: {error}")
