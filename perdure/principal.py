"""Who calls: a person or program, of an organisation, with roles that policies name and scopes that routes ask for."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator

from perdure.messages import Frozen

ANY: Final = "*"
"""The role of whoever needs none: an operator with Temporal itself at hand, and everyone while the API is open."""


class Scope(StrEnum):
    """What a caller may do with the API, whatever the policy lets its runs do."""

    RUNS_READ = "runs:read"
    """See runs, their events and results."""
    RUNS_WRITE = "runs:write"
    """Start, steer and cancel runs."""
    APPROVALS_DECIDE = "approvals:decide"
    """Decide on approvals, and revoke standing grants."""
    AGENTS_WRITE = "agents:write"
    """Change which versions of agents the runs of everybody in the organisation start with."""
    USAGE_READ = "usage:read"
    AUDIT_READ = "audit:read"
    CODEC_DECODE = "codec:decode"
    """Read payloads in plain text, as the Temporal Web UI's codec endpoint gives them."""


def _known(scopes: Any) -> Any:
    """Leave out what is no scope here, as a newer version, or another service, may have more."""
    return tuple(scope for scope in scopes if scope in set(Scope)) if isinstance(scopes, list | tuple) else scopes


Scopes = Annotated[tuple[Scope, ...], BeforeValidator(_known)]
"""Those scopes of a list that exist."""


class Principal(Frozen):
    """The caller of a request."""

    user: str
    """Who: the name of a key, or the subject of a token."""
    org: str | None
    """Whose runs are seen and started. None: of every organisation, as for an operator, or while the API is open."""
    roles: tuple[str, ...] = ()
    scopes: Scopes = ()
    via: Literal["open", "key", "oidc", "operator"]
    """How the caller was told from others."""
    credential: str = ""
    """The id of the key, or the issuer of the token."""

    @property
    def authenticated(self) -> bool:
        """Whether the caller has proved who it is: then it speaks and decides in that name only."""
        return self.via in ("key", "oidc")

    def holds(self, role: str) -> bool:
        """Whether the caller has a role."""
        return role in self.roles or ANY in self.roles

    def may(self, scope: Scope) -> bool:
        """Whether the caller has a scope."""
        return scope in self.scopes


OPERATOR: Final = Principal(user="operator", org=None, roles=(ANY,), scopes=tuple(Scope), via="operator")
"""Whoever holds a connection to Temporal, as the command line does, can do all of this without us."""

ANYONE: Final = Principal(user="", org=None, roles=(ANY,), scopes=tuple(Scope), via="open")
"""Whoever reaches an open API, which serves this machine only."""
