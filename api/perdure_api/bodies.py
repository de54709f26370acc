"""The size limit of request bodies. Starlette's own answers in plain text, whatever the error handlers say."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES: Final = 4 * 1024 * 1024
"""A task of the largest size fits, however its JSON is escaped."""


class BodyLimit:
    """Refuses to read a body beyond its limit, by what it declares or by what it brings."""

    def __init__(self, app: ASGIApp, *, max_bytes: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request whose body is cut off by an error once it is too long."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = _declared(scope)
        read = 0

        async def receive_limited() -> Message:
            nonlocal read
            if declared <= self._max_bytes:
                message = await receive()
                read += len(message.get("body", b""))
            if max(declared, read) > self._max_bytes:
                raise HTTPException(
                    HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {self._max_bytes:,} bytes"
                )
            return message

        await self._app(scope, receive_limited, send)


def _declared(scope: Scope) -> int:
    length = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
    return int(length) if length.isdigit() else 0
