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

from perdure.principal import OPERATOR, Principal, Scope
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


def authorise_codec(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)] = None
) -> None:
    """Let the Web UI and the `temporal` command have payloads decoded, or answer 401 or 403.

    Without encryption everyone may: payloads are compressed at most, and whoever has them can unpack them.
    """
    settings: Settings = request.app.state.settings
    if not settings.encryption_keys:
        return
    if settings.api_key is None:
        _require_local(request, web_ui=settings.ui_url)
    else:
        authorise(request, credentials)
    require_decoding(OPERATOR)


def require_decoding(principal: Principal) -> None:
    """Answer 403 unless the caller may read every payload.

    Nothing in a payload says whose it is, so those of one organisation cannot be told from another's: decoding is for
    principals of no organisation alone.
    """
    if principal.org is not None or not principal.may(Scope.CODEC_DECODE):
        raise HTTPException(
            HTTPStatus.FORBIDDEN,
            f"payloads of every organisation are decoded here: this takes the scope {Scope.CODEC_DECODE} and a caller "
            "of no organisation",
        )


def _require_local(request: Request, *, web_ui: str | None = None) -> None:
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    if not _is_local(host):
        raise HTTPException(HTTPStatus.FORBIDDEN, f"the API has no key and answers as localhost only, not as {host!r}")
    if origin is not None and origin.partition("://")[2] != host and not _is_same_page(origin, web_ui):
        raise HTTPException(HTTPStatus.FORBIDDEN, f"the API has no key and serves no pages of {origin!r}")


def _is_same_page(origin: str, url: str | None) -> bool:
    """Whether a page of that origin is the one at that address; all names of this machine are one."""
    if url is None:
        return False
    try:
        page, wanted = urlsplit(origin), urlsplit(url)
        same_host = page.hostname == wanted.hostname or (_is_local(page.netloc) and _is_local(wanted.netloc))
        return same_host and (page.scheme, page.port) == (wanted.scheme, wanted.port)
    except ValueError:
        return False


def _is_local(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
