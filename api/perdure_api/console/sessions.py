"""Sessions: what a browser carries for us, encrypted, in one cookie. The server keeps nothing of them."""

from __future__ import annotations

import base64
import secrets
from datetime import timedelta
from typing import Final

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import Field, SecretStr, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from perdure.messages import Frozen
from perdure.settings import Settings

COOKIE: Final = "perdure_console"
LIFETIME: Final = timedelta(hours=12)
"""Then one logs in again."""
PIECE: Final = 3800
"""Characters of a cookie's value that every browser keeps."""
MAX_PIECES: Final = 4


class Session(Frozen):
    """What is kept between the requests of one browser."""

    csrf: str = Field(default_factory=lambda: secrets.token_urlsafe(24))
    """What a form must bring back, so that no other site's form counts."""
    bearer: str = Field(default="", repr=False)
    """The API key or token of whoever is logged in; checked anew by each request."""
    name: str = ""
    """As whom somebody decides while nobody is asked to log in."""
    notice: str = ""
    """What the next page says first."""
    failed: bool = False
    """Whether the notice is that something did not work."""


class Sessions:
    """Writes sessions into cookies that only this deployment can read or make."""

    def __init__(self, settings: Settings) -> None:
        """Take the secret of the settings; without one, cookies last as long as this process."""
        secret = settings.console_secret or SecretStr(secrets.token_urlsafe(32))
        self._seal = Fernet(_key(secret))
        self._https = (settings.public_url or "").startswith("https:")

    def read(self, request: Request) -> Session | None:
        """Return the session of a request; None if it has none, or one that is too old or not ours."""
        opened = self.open(_joined(request), lifetime=LIFETIME)
        try:
            return Session.model_validate_json(opened) if opened else None
        except ValidationError:  # of a version before this one
            return None

    def write(self, response: Response, request: Request, session: Session) -> None:
        """Have the browser keep a session."""
        sealed = self.seal(session.model_dump_json(exclude_defaults=True, include=set(Session.model_fields)))
        pieces = [sealed[at : at + PIECE] for at in range(0, len(sealed), PIECE)]
        for place in range(MAX_PIECES):
            name = _piece_name(place)
            if place < len(pieces):
                self.set_cookie(response, request, name, pieces[place])
            elif name in request.cookies:
                response.delete_cookie(name, path=home(request))

    def set_cookie(
        self, response: Response, request: Request, name: str, value: str, *, lifetime: timedelta | None = None
    ) -> None:
        """Set a cookie that scripts cannot read and that other sites' forms do not send."""
        response.set_cookie(
            name,
            value,
            max_age=round(lifetime.total_seconds()) if lifetime else None,
            path=home(request),
            secure=self._https or request.url.scheme == "https",
            httponly=True,
            samesite="lax",
        )

    def seal(self, text: str) -> str:
        """Encrypt a text so that nobody can read or change it."""
        return self._seal.encrypt(text.encode()).decode()

    def open(self, sealed: str, *, lifetime: timedelta) -> str | None:
        """Return the text of what was sealed; None if it is too old, or nothing that we sealed."""
        try:
            return self._seal.decrypt(sealed.encode(), ttl=round(lifetime.total_seconds())).decode()
        except (InvalidToken, UnicodeError):
            return None


def home(request: Request) -> str:
    """Return the path under which the console is served."""
    path: str = request.scope.get("root_path", "")
    return path


def _joined(request: Request) -> str:
    return "".join(request.cookies.get(_piece_name(place), "") for place in range(MAX_PIECES))


def _piece_name(place: int) -> str:
    return f"{COOKIE}_{place}" if place else COOKIE


def _key(secret: SecretStr) -> bytes:
    derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"perdure console cookies")
    return base64.urlsafe_b64encode(derived.derive(secret.get_secret_value().encode()))
