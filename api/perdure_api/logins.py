"""Failed logins: what is told of them, and to whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import structlog

log = structlog.get_logger(__name__)

LoginRefusal = Literal[
    "malformed",
    "unknown_key",
    "wrong_secret",
    "revoked_key",
    "expired_key",
    "tokens_not_accepted",
    "expired_token",
    "invalid_token",
]
"""`malformed`: neither a key nor a token. `tokens_not_accepted`: a token, and no issuer is configured."""


@dataclass(frozen=True)
class LoginFailure:
    """A request that came with a key or token that does not count. One that came with none is no login."""

    reason: LoginRefusal
    credential: str
    """The key's id, or the issuer of the tokens; empty if it is neither."""
    address: str
    """Of the client, as the server sees it."""
    org: str | None = None
    """Of the key, if there is such a key."""


class LoginFailures(Protocol):
    """Whoever is told of failed logins."""

    async def record(self, failure: LoginFailure) -> None:
        """Take note; the caller's 401 waits for it."""
        ...


class LoggedLoginFailures:
    """Writes failed logins to the log."""

    async def record(self, failure: LoginFailure) -> None:
        """Log a warning."""
        log.warning(
            "login_failed",
            reason=failure.reason,
            credential=failure.credential,
            address=failure.address,
            org=failure.org,
        )
