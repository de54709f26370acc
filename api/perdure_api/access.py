"""Who may call: holders of the API key, or without one programs of this machine."""

from __future__ import annotations

import hmac
import ipaddress
from http import HTTPStatus
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from perdure.settings import Settings

bearer = HTTPBearer(auto_error=False, description="The value of PERDURE_API_KEY; not needed if none is set.")


def authorise(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)] = None
) -> None:
    """Let the request pass, or answer 401 or 403.

    An API without a key listens on loopback only, but so does every web page that the user has open: a page is told by
    its Origin, or after DNS rebinding by a Host that is not this machine's.
    """
    settings: Settings = request.app.state.settings
    if settings.api_key is None:
        _require_local(request)
        return
    given = credentials.credentials if credentials else ""
    if not hmac.compare_digest(given.encode(), settings.api_key.get_secret_value().encode()):
        raise HTTPException(
            HTTPStatus.UNAUTHORIZED,
            "send the API key as 'Authorization: Bearer …'",
            headers={"WWW-Authenticate": "Bearer"},
        )


def _require_local(request: Request) -> None:
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    if not _is_local(host):
        raise HTTPException(HTTPStatus.FORBIDDEN, f"the API has no key and answers as localhost only, not as {host!r}")
    if origin is not None and origin.partition("://")[2] != host:
        raise HTTPException(HTTPStatus.FORBIDDEN, f"the API has no key and serves no pages of {origin!r}")


def _is_local(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
