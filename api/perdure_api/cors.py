"""Cross-origin access for the codec alone, which the Temporal Web UI calls from its own address."""

from __future__ import annotations

from typing import Final

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

CODEC_PATH: Final = "/codec/"


class CodecCors:
    """Lets pages of any origin call the codec, which works on what the page itself sends, and asks whose page it is."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._open = CORSMiddleware(
            app,
            allow_origins=["*"],
            allow_methods=["POST"],
            allow_headers=["authorization", "content-type", "x-namespace"],
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, with CORS headers if it is for the codec."""
        is_codec = scope["type"] == "http" and scope["path"].startswith(CODEC_PATH)
        await (self._open if is_codec else self._app)(scope, receive, send)
