"""What a principal may say of itself: in whose name it speaks, and for whom, and with which roles, it starts runs."""

from __future__ import annotations

from typing import Any

from perdure.errors import InvalidInputError, PermissionDeniedError
from perdure.principal import Principal
from perdure_api.schemas import NewRun


def speaker(principal: Principal, named: str | None, *, field: str) -> str | None:
    """Return in whose name a request counts: the caller's own, or while nobody is asked who calls, the one it gives.

    Raises:
        InvalidInputError: It names somebody else.
    """
    if not principal.authenticated:
        return named
    if named not in (None, principal.user):
        raise InvalidInputError(f"{field} is {named!r}, but you are {principal.user!r}: leave it out")
    return principal.user


def required_speaker(principal: Principal, named: str | None, *, field: str) -> str:
    """Return in whose name a request counts; raises as `speaker`, and if there is no name at all."""
    name = speaker(principal, named, field=field)
    if not name:
        raise InvalidInputError(f"{field} is missing; while the API is open it has to be given")
    return name


def signed(principal: Principal, reason: str) -> str:
    """Return a reason that has nowhere else to say whose it is."""
    if not principal.authenticated:
        return reason
    return f"by {principal.user}: {reason}" if reason else f"by {principal.user}"


def commissioned(principal: Principal, new: NewRun) -> NewRun:
    """Return the run that a caller may start: of its organisation, with roles that it has, on whose behalf it says.

    Raises:
        PermissionDeniedError: It is of another organisation, or has roles that the caller lacks.
    """
    if principal.org is not None and new.org not in (None, principal.org):
        raise PermissionDeniedError(f"{principal.user!r} starts runs of {principal.org!r} only, not of {new.org!r}")
    if lacking := [role for role in new.roles or () if not principal.holds(role)]:
        raise PermissionDeniedError(
            f"{principal.user!r} lacks the role {lacking[0]!r}; a run may have fewer roles than who starts it, not more"
        )
    given: dict[str, Any] = {}
    if principal.org is not None:
        given["org"] = principal.org
    if principal.authenticated and new.user is None:
        given["user"] = principal.user
    return new.model_copy(update=given)


def roles_of(principal: Principal, new: NewRun) -> tuple[str, ...]:
    """Return the roles that a run has: those asked for, else all that the caller has."""
    return principal.roles if new.roles is None else new.roles


def wanted_org(principal: Principal, asked: str | None) -> tuple[str, ...]:
    """Return the organisations that what is listed must be of, all of them; none for everything."""
    return tuple(org for org in dict.fromkeys((principal.org, asked)) if org is not None)
