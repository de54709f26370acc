"""Login at the OpenID Connect issuer: the authorisation code flow with PKCE (RFC 6749, RFC 7636).

The token that comes of it is what the API takes as well, and is judged by the same code with every request.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlencode

import httpx2
from pydantic import SecretStr

from perdure.errors import IssuerUnreachableError, UnauthenticatedError
from perdure.messages import Frozen
from perdure.settings import Oidc, Settings
from perdure_api.oidc import DISCOVERY, FETCH_TIMEOUT, fetch_document

JWT_DOTS: Final = 2
COOKIE: Final = "perdure_console_login"
PATIENCE: Final = timedelta(minutes=10)
"""How long somebody may take at the issuer."""


class Attempt(Frozen):
    """A login under way, as the browser keeps it, encrypted."""

    state: str
    """Comes back with the answer, so that it is one to this browser's question."""
    verifier: str
    """Proves that who redeems the code is who asked for it."""
    next: str = ""

    @classmethod
    def new(cls, *, next: str) -> Attempt:  # noqa: A002  # as the address has it
        """Return an attempt that nobody can guess."""
        return cls(state=secrets.token_urlsafe(24), verifier=secrets.token_urlsafe(48), next=next)


class OidcLogin:
    """The console as a client of the issuer."""

    def __init__(self, issuer: Oidc, client_id: str) -> None:
        self._issuer = issuer
        self._client_id = client_id
        self._document: dict[str, Any] | None = None

    @classmethod
    def of(cls, settings: Settings) -> OidcLogin | None:
        """Return the login at the issuer of the settings, if the issuer knows the console."""
        issuer = settings.oidc
        return cls(issuer, issuer.client_id) if issuer is not None and issuer.client_id is not None else None

    async def address(self, attempt: Attempt, *, back: str) -> str:
        """Return where the browser is sent to, and from where it comes back.

        Raises:
            IssuerUnreachableError: The issuer does not say where.
        """
        challenge = base64.urlsafe_b64encode(hashlib.sha256(attempt.verifier.encode()).digest()).rstrip(b"=").decode()
        asked = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": back,
            "scope": self._issuer.login_scope,
            "state": attempt.state,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        endpoint = await self._endpoint("authorization_endpoint")
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(asked)}"

    async def tokens(self, code: str, attempt: Attempt, *, back: str) -> list[str]:
        """Redeem a code, and return the tokens that may be ours, the likeliest first.

        Raises:
            UnauthenticatedError: The issuer does not take the code.
            IssuerUnreachableError: It does not answer.
        """
        sent = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": back,
            "client_id": self._client_id,
            "code_verifier": attempt.verifier,
        }
        endpoint = await self._endpoint("token_endpoint")
        secret: SecretStr | None = self._issuer.client_secret
        try:
            async with httpx2.AsyncClient(timeout=FETCH_TIMEOUT.total_seconds()) as http:
                data = sent if secret is None else {**sent, "client_secret": secret.get_secret_value()}
                response = await http.post(endpoint, data=data)
                answer = response.json()
        except (httpx2.HTTPError, ValueError) as error:
            raise IssuerUnreachableError(f"{self._issuer.issuer} cannot be asked for a token: {error}") from error
        if response.status_code != httpx2.codes.OK or not isinstance(answer, dict):
            raise UnauthenticatedError("the issuer did not take the login's code; try again")
        tokens = [answer.get(name) for name in ("access_token", "id_token")]
        # Some issuers' access tokens are for the issuer's eyes only; then the identity token says who that is.
        return [token for token in tokens if isinstance(token, str) and token.count(".") == JWT_DOTS]

    async def _endpoint(self, name: str) -> str:
        try:
            if self._document is None:
                async with httpx2.AsyncClient(timeout=FETCH_TIMEOUT.total_seconds()) as http:
                    document = await fetch_document(http, self._issuer.issuer.rstrip("/") + DISCOVERY)
                if document.get("issuer") != self._issuer.issuer:
                    raise ValueError(f"its discovery document is of {document.get('issuer')!r}")
                self._document = document
            return str(self._document[name])
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, KeyError) as error:
            raise IssuerUnreachableError(f"{self._issuer.issuer} does not say where one logs in: {error}") from error
