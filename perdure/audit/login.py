"""Failed logins on their way into the audit: they have no history of their own, so the auditor's own holds them."""

from __future__ import annotations

from typing import Final

from perdure.messages import Frozen

LOGIN_FAILED: Final = "login_failed"
"""The auditor's signal."""


class FailedLogins(Frozen):
    """Failed logins that are alike."""

    reason: str
    """`unknown_key`, `wrong_secret`, `expired_token`, …; `more` for those that were not told apart."""
    credential: str = ""
    """The key's id, or the issuer of the token."""
    address: str = ""
    """Of the client."""
    org: str | None = None
    """Of the key, if there is such a key."""
    count: int = 1


class FailedLoginBatch(Frozen):
    """The payload of the signal `login_failed`."""

    failures: tuple[FailedLogins, ...] = ()
