"""Who calls: told by an API key, or by a token of the configured issuer. An open API serves this machine alone."""

from __future__ import annotations

import ipaddress
import re
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request

from perdure.api_key import PREFIX, KeyText
from perdure.errors import DecryptionError, PerdureError, PermissionDeniedError, UnauthenticatedError
from perdure.principal import ANYONE, Principal, Scope
from perdure_api.keys import ApiKeys, FoundKey
from perdure_api.logins import LoginFailure, LoginFailures, LoginRefusal
from perdure_api.lookups import Lookups
from perdure_api.oidc import InvalidTokenError, Issuer

KEYS_KEPT_FOR: Final = timedelta(seconds=5)
"""What Temporal has said of a key is not asked again for so long: a revoked one may work until then."""
FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
"""Headers of proxies: the request came from somewhere else."""
_TOKEN: Final = re.compile(r"[A-Za-z0-9_=-]+\.[A-Za-z0-9_=-]+\.[A-Za-z0-9_=-]*")

HOW: Final = "send an API key or a token as 'Authorization: Bearer …'"


class OpenAccess:
    """Asks nobody, and serves programs of this machine.

    The API then listens on loopback only, but so does every web page that the user has open: a page is told by its
    Origin, or after DNS rebinding by a Host that is not this machine's. A proxy on this machine serves others.
    """

    async def principal(self, request: Request, *, page: str | None = None) -> Principal:
        """Return the caller of a request of this machine.

        Args:
            request: The request.
            page: Address of a page, besides those of the API itself, whose scripts may call.

        Raises:
            PermissionDeniedError: It comes from somewhere else.
        """
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if not _is_local(host):
            raise PermissionDeniedError(f"the API is open and answers as localhost only, not as {host!r}")
        if origin is not None and origin.partition("://")[2] != host and not _is_same_page(origin, page):
            raise PermissionDeniedError(f"the API is open and serves no pages of {origin!r}")
        if proxy := next((name for name in FORWARDED if name in request.headers), None):
            raise PermissionDeniedError(
                f"the API is open and serves this machine only, but a proxy has passed this on ({proxy}); set "
                "PERDURE_AUTH=required"
            )
        return ANYONE


class RequiredAccess:
    """Asks everybody for a key or a token."""

    def __init__(self, keys: ApiKeys, *, issuer: Issuer | None, failures: LoginFailures) -> None:
        self._keys: Lookups[str, FoundKey | None] = Lookups(keys.find, kept_for=KEYS_KEPT_FOR)
        self._issuer = issuer
        self._failures = failures

    async def principal(self, request: Request, *, page: str | None = None) -> Principal:
        """Return the caller of a request, whatever page it comes from: no page can send another's key or token.

        Raises:
            UnauthenticatedError: It has no key or token, or one that does not count.
            ServerUnreachableError: Temporal, which has the keys, does not answer.
            IssuerUnreachableError: The issuer, which has the keys of its tokens, does not answer.
        """
        del page
        scheme, _, sent = request.headers.get("authorization", "").partition(" ")
        sent = sent.strip()
        if scheme.lower() != "bearer" or not sent:
            raise UnauthenticatedError(HOW)
        return await self.holder_of(sent, request)

    async def holder_of(self, sent: str, request: Request) -> Principal:
        """Return whom a key or token names; raises as `principal`.

        Args:
            sent: The key or token.
            request: What it came with.
        """
        try:
            return await self._principal(sent)
        except _RefusedError as refused:
            address = request.client.host if request.client else ""
            await self._failures.record(LoginFailure(refused.reason, refused.credential, address, refused.org))
            raise UnauthenticatedError(str(refused), credential=True) from refused

    async def _principal(self, sent: str) -> Principal:
        if sent.startswith(PREFIX):
            return await self._holder(sent)
        if not _TOKEN.fullmatch(sent):
            raise _RefusedError("malformed", f"this is neither an API key nor a token; {HOW}")
        if self._issuer is None:
            raise _RefusedError("tokens_not_accepted", f"tokens are not accepted here; send an API key, {PREFIX}…")
        try:
            return await self._issuer.principal(sent)
        except InvalidTokenError as error:
            reason: LoginRefusal = "expired_token" if error.expired else "invalid_token"
            raise _RefusedError(reason, str(error), credential=self._issuer.name) from error

    async def _holder(self, sent: str) -> Principal:
        key = KeyText.parse(sent)
        if key is None:
            raise _RefusedError("malformed", f"this is no API key; it must be {PREFIX}…_… as it was made")
        found = await self._find(key.key_id)
        if found is None:
            raise _RefusedError("unknown_key", "the API key is not valid", credential=key.key_id)
        record = found.record
        if not key.opens(record):  # whoever has the secret is told what became of the key, and nobody else
            raise _RefusedError("wrong_secret", "the API key is not valid", credential=key.key_id, org=record.org)
        if found.state == "revoked":
            raise _RefusedError("revoked_key", "the API key is revoked", credential=key.key_id, org=record.org)
        if found.state == "expired" or (record.expires_at is not None and record.expires_at <= datetime.now(UTC)):
            raise _RefusedError("expired_key", "the API key has expired", credential=key.key_id, org=record.org)
        return record.principal

    async def _find(self, key_id: str) -> FoundKey | None:
        try:
            return await self._keys.find(key_id)
        except DecryptionError as error:  # which keys there are is no business of who is not known yet
            raise PerdureError("the record of the API key cannot be read here; the server's log says why") from error


Access = OpenAccess | RequiredAccess


async def authorise(
    access: Access, request: Request, scope: Scope, *, all_orgs: bool = False, page: str | None = None
) -> Principal:
    """Return the caller of a request, if it may do what the scope stands for.

    Args:
        access: How callers are told.
        request: The request.
        scope: What it needs.
        all_orgs: It reaches what is every organisation's, so that nobody of one may send it.
        page: As for `OpenAccess`.

    Raises:
        UnauthenticatedError: Nobody knows who calls.
        PermissionDeniedError: The caller does not have the scope, or is of an organisation.
        PerdureError: Who calls cannot be told now, as `RequiredAccess.principal`.
    """
    principal = await access.principal(request, page=page)
    permit(principal, scope, all_orgs=all_orgs)
    return principal


def permit(principal: Principal, scope: Scope, *, all_orgs: bool = False) -> None:
    """Let a caller do what the scope stands for; arguments as for `authorise`.

    Raises:
        PermissionDeniedError: The caller does not have the scope, or is of an organisation.
    """
    if not principal.may(scope):
        held = ", ".join(principal.scopes) or "none"
        raise PermissionDeniedError(f"this needs the scope {scope.value!r}; {principal.user!r} has: {held}")
    if all_orgs and principal.org is not None:
        raise PermissionDeniedError(
            f"this reaches every organisation: it takes a key of --all-orgs, and {principal.user!r} is of one"
        )


class _RefusedError(Exception):
    def __init__(self, reason: LoginRefusal, message: str, *, credential: str = "", org: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.credential = credential
        self.org = org


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
