"""Tokens of an OpenID Connect issuer: JWTs (RFC 7519), verified here against the keys that the issuer publishes."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

import httpx2
import jwt
from jwt import PyJWK, PyJWKSet
from pydantic import TypeAdapter, ValidationError

from perdure.errors import IssuerUnreachableError
from perdure.principal import ANY, Principal, Scope
from perdure.settings import Oidc
from perdure_api.lookups import Lookups
from perdure_api.text import Line, SearchKey

ALGORITHMS: Final = ("RS256", "ES256")
"""Fixed: a token does not choose how it is verified, and never `none` or a shared secret."""
KEY_TYPES: Final = ("RSA", "EC")
LEEWAY: Final = timedelta(seconds=10)
"""By how much the issuer's clock may differ from ours."""
KEYS_KEPT_FOR: Final = timedelta(minutes=5)
REFRESH_PAUSE: Final = timedelta(seconds=10)
"""Between two looks for a key that the issuer did not have, so that whoever names unknown ones does not make us ask."""
FETCH_TIMEOUT: Final = timedelta(seconds=5)
MAX_DOCUMENT_BYTES: Final = 1024 * 1024
DISCOVERY: Final = "/.well-known/openid-configuration"

_NAME: Final[TypeAdapter[str]] = TypeAdapter(SearchKey)
_ROLES: Final[TypeAdapter[tuple[str, ...]]] = TypeAdapter(tuple[Line, ...])


class InvalidTokenError(Exception):
    """The token does not count; the message says why, in words for its holder."""

    def __init__(self, message: str, *, expired: bool = False) -> None:
        super().__init__(message)
        self.expired = expired


class Issuer:
    """The configured issuer: whose tokens count, and what their claims mean."""

    def __init__(self, settings: Oidc) -> None:
        self._settings = settings
        self._keys: Lookups[str, dict[str, PyJWK]] = Lookups(self._fetch_keys, kept_for=KEYS_KEPT_FOR)
        self._jwks_url = settings.jwks_url

    @property
    def name(self) -> str:
        """The issuer's address, as tokens name it."""
        return self._settings.issuer

    async def principal(self, token: str) -> Principal:
        """Return whom a token names.

        Raises:
            InvalidTokenError: It does not count.
            IssuerUnreachableError: Its key is not known here, and the issuer does not answer.
        """
        key = await self._key(token)
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                audience=self._settings.audience,
                issuer=self._settings.issuer,
                leeway=LEEWAY,
                options={"require": ["exp", "iss", "aud", "sub"], "enforce_minimum_key_length": True},
            )
        except jwt.ExpiredSignatureError as error:
            raise InvalidTokenError("the token has expired", expired=True) from error
        except jwt.PyJWTError as error:
            raise InvalidTokenError(f"the token is not valid here: {error}") from error
        return self._read(claims)

    def _read(self, claims: Mapping[str, Any]) -> Principal:
        settings = self._settings
        return Principal(
            user=_name(claims, settings.user_claim),
            org=settings.org or _name(claims, settings.org_claim),
            roles=_roles(claims, settings.roles_claim),
            scopes=_scopes(claims, settings.scopes_claim),
            via="oidc",
            credential=settings.issuer,
        )

    async def _key(self, token: str) -> PyJWK:
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
        except jwt.PyJWTError as error:
            raise InvalidTokenError(f"the token cannot be read: {error}") from error
        if not isinstance(key_id, str):
            raise InvalidTokenError("the token does not name its key (header 'kid')")
        keys = await self._keys.find(self.name)
        if key_id not in keys:  # the issuer may have changed its keys since
            keys = await self._keys.find(self.name, not_before=time.monotonic() - REFRESH_PAUSE.total_seconds())
        if key_id not in keys:
            raise InvalidTokenError(f"the token is signed with a key that {self.name} does not publish")
        return keys[key_id]

    async def reach(self) -> None:
        """Return if the issuer's keys can be had now.

        Raises:
            IssuerUnreachableError: They cannot.
        """
        await self._fetch_keys(self.name)

    async def _fetch_keys(self, _: str) -> dict[str, PyJWK]:
        try:
            async with httpx2.AsyncClient(timeout=FETCH_TIMEOUT.total_seconds()) as http:
                if self._jwks_url is None:
                    self._jwks_url = await self._discover(http)
                document = await fetch_document(http, self._jwks_url)
            keys = PyJWKSet.from_dict(document).keys
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, jwt.PyJWTError) as error:
            raise IssuerUnreachableError(f"the keys of {self.name} cannot be had now: {error}") from error
        return {key.key_id: key for key in keys if key.key_id and _signs(key)}

    async def _discover(self, http: httpx2.AsyncClient) -> str:
        """Return where the issuer says that its keys are (OpenID Connect Discovery 1.0)."""
        document = await fetch_document(http, self.name.rstrip("/") + DISCOVERY)
        if document.get("issuer") != self.name:
            raise ValueError(f"its discovery document is of {document.get('issuer')!r}")
        url = document.get("jwks_uri")
        if not isinstance(url, str):
            raise ValueError("its discovery document has no jwks_uri")
        return url


async def fetch_document(http: httpx2.AsyncClient, url: str) -> dict[str, Any]:
    """Return a JSON object of the issuer's; raises ValueError or an HTTP error if there is none."""
    async with http.stream("GET", url) as response:
        if response.status_code != httpx2.codes.OK:
            raise ValueError(f"{url} answered {response.status_code}")
        content = b""
        async for chunk in response.aiter_bytes():
            content += chunk
            if len(content) > MAX_DOCUMENT_BYTES:
                raise ValueError(f"{url} answered more than {MAX_DOCUMENT_BYTES:,} bytes")
    document = json.loads(content)
    if not isinstance(document, dict):
        raise ValueError(f"{url} answered something else than a JSON object")
    return document


def _signs(key: PyJWK) -> bool:
    return key.key_type in KEY_TYPES and key.public_key_use in ("sig", None)


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """Return a claim by its name, or by a path as in `realm_access.roles`; None if it is not there."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _name(claims: Mapping[str, Any], claim: str) -> str:
    value = _claim(claims, claim)
    if value is None:
        raise InvalidTokenError(f"the token has no claim {claim!r}")
    try:
        return _NAME.validate_python(value, strict=True)
    except ValidationError as error:
        raise InvalidTokenError(f"the token's claim {claim!r} cannot be used: {error.errors()[0]['msg']}") from error


def _roles(claims: Mapping[str, Any], claim: str) -> tuple[str, ...]:
    """Return the roles of a token; that which stands for all of them is given to keys alone, by hand."""
    value = _claim(claims, claim)
    listed = value.split() if isinstance(value, str) else value or ()
    try:
        return tuple(role for role in _ROLES.validate_python(listed) if role != ANY)
    except ValidationError as error:
        raise InvalidTokenError(f"the token's claim {claim!r} is no list of roles") from error


def _scopes(claims: Mapping[str, Any], claim: str) -> tuple[Scope, ...]:
    """Return those scopes of a token that are ours; others are for other services."""
    value = _claim(claims, claim)
    listed = value.split() if isinstance(value, str) else value
    return tuple(scope for scope in Scope if isinstance(listed, list) and scope in listed)
