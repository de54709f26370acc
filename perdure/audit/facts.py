"""From a run's events to entries of the audit: generic over kinds of events, so that a new kind cannot be forgotten.

Fields are taken by their names. A number or a yes or no is kept whatever it is called; a text only if its name is known
here, as it could be anything that a model or a person wrote. Arguments are kept as a digest alone.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final

from perdure.audit.calls import Calls
from perdure.audit.record import AuditEntry, Place, written
from perdure.audit.words import MAX_NAME, brief, name
from perdure.contracts import RunError, RunInput, Totals
from perdure.events import (
    EventId,
    RunEvent,
)

NOT_AUDITED: Final = frozenset(
    {
        "model.called",
        "model.replied",
        "model.failed",
        "model.cancelled",
        "run.continued",
        "worker.lost",
        "worker.failed",
    }
)
"""Kinds of events that are no deed: what the model says, and how the machinery gets along. All others are audited."""

POLICY_DECIDED: Final = "policy.decided"
_OF_CALLS: Final = frozenset({"step", "call_id", "approval_id", "grant_id", "effect"})
_WHO: Final = ("decided_by", "requested_by", "by", "sender")
_OUTCOMES: Final = ("outcome", "status", "decision", "permission")
_NAMES: Final = frozenset(
    {
        "about",
        "approval_id",
        "budget",
        "call_id",
        "effect",
        "error_type",
        "grant_id",
        "host",
        "model",
        "name",
        "notice_id",
        "per",
        "question",
        "session_id",
        "subject",
        "version",
    }
)
"""Texts that are names or words of a small set."""
_WORDS: Final = ("reason", "error", "detail")
"""Texts that somebody wrote, the first of which becomes the record's reason."""
_LISTS: Final = frozenset({"roles", "scopes", "approvers"})
"""Lists of names."""
_ELSEWHERE: Final = frozenset(
    {"id", "at", "kind", "org", "user", "agent", "tool", "rule", "resource", "digest", "is_error", *_WHO, *_OUTCOMES}
)

Digest = Callable[[str], str]
"""Makes a digest of arguments into what is recorded."""


@dataclass(frozen=True)
class Origin:
    """The execution that events come from."""

    run_id: str
    execution_id: str
    org: str = ""
    user: str = ""
    agent: str = ""
    who: str = ""
    """Who started it."""
    roles: tuple[str, ...] = ()

    @classmethod
    def of(cls, run: RunInput, *, run_id: str, execution_id: str, identity: str) -> Origin:
        """Return the origin of a run's events.

        Args:
            run: What started it.
            run_id: Temporal's workflow id.
            execution_id: Temporal's run id.
            identity: Of the Temporal client that started it.
        """
        return cls(
            run_id=run_id,
            execution_id=execution_id,
            org=name(run.org or ""),
            user=name(run.user or ""),
            agent=name(run.spec.name),
            who=name(run.requested_by or run.user or identity),
            roles=tuple(name(role) for role in run.roles),
        )

    def source(self, place: Place) -> str:
        """Return the id of a record that comes from there."""
        return f"{self.execution_id}/{place}"


def keyed(key: bytes | None) -> Digest:
    """Return how digests of arguments are recorded.

    Arguments that can be guessed (a known customer, a small amount) can be found from their digest by whoever reads
    the audit: by trying. With a key, only by whoever has the key too.
    """
    if not key:
        return lambda digest: digest
    return lambda digest: hmac.new(key, digest.encode(), hashlib.sha256).hexdigest()


def entries_of(event: RunEvent, origin: Origin, calls: Calls, *, digest: Digest) -> Iterator[AuditEntry]:
    """Return what an event means to the audit.

    Args:
        event: The next event of a run.
        origin: The execution it is from.
        calls: Told of every event of the run, this one included.
        digest: How digests of arguments are recorded.
    """
    arguments = calls.digest(event)
    if event.kind in NOT_AUDITED:
        return
    fields = {field: getattr(event, field) for field in type(event).model_fields}
    event_id = EventId.parse(event.id)
    place = Place(event_id.history_event, event_id.part)
    entry = AuditEntry(
        at=event.at,
        org=origin.org,
        kind=event.kind,
        who=_who(fields, origin),
        user=origin.user,
        run_id=origin.run_id,
        execution_id=origin.execution_id,
        source=origin.source(place),
        agent=origin.agent,
        tool=name(fields.get("tool") or ""),
        rule=name(fields.get("rule") or ""),
        resource=brief(fields.get("resource") or "", MAX_NAME),
        arguments_digest=digest(arguments) if arguments else "",
        outcome=_outcome(fields),
        reason=_reason(fields),
        details=details_of(fields) | _starter(event.kind, origin),
    )
    if permission := calls.permission(event):
        yield _policy_decision(entry, permission)
        entry = entry.model_copy(update={"source": origin.source(place._replace(aspect=1))})
    yield entry


def details_of(fields: Mapping[str, Any]) -> dict[str, str | int | bool]:
    """Return what is kept of fields that have no place of their own in a record."""
    found: dict[str, str | int | bool] = {}
    for field, value in fields.items():
        if field in _ELSEWHERE or value in (None, "", (), 0, False):
            continue
        match value:
            case Enum():
                found[field] = name(str(value.value))
            case str() if field in _NAMES:
                found[field] = name(value)
            case bool():
                found[field] = value
            case int():
                found[field] = value if abs(value) < 2**53 else str(value)
            case Decimal():
                found[field] = str(value)
            case datetime():
                found[field] = written(value)
            case timedelta():
                found[f"{field}_ms"] = round(value / timedelta(milliseconds=1))
            case tuple() | list() if field in _LISTS:
                found[field] = name(", ".join(str(one) for one in value))
            case RunError():
                found["error_type"] = name(value.type)
            case Totals():
                found |= {"steps": value.steps, "cost_usd": str(value.cost_usd), "unpriced_calls": value.unpriced_calls}
            case _:
                pass
    return found


def _policy_decision(entry: AuditEntry, permission: str) -> AuditEntry:
    kept = {key: value for key, value in entry.details.items() if key in _OF_CALLS}
    return entry.model_copy(
        update={"kind": POLICY_DECIDED, "who": "", "outcome": permission, "reason": "", "details": kept}
    )


def _who(fields: Mapping[str, Any], origin: Origin) -> str:
    who = next((fields[field] for field in _WHO if isinstance(fields.get(field), str) and fields[field]), "")
    return name(who) if who else origin.who if fields["kind"] == "run.started" else ""


def _starter(kind: str, origin: Origin) -> dict[str, str | int | bool]:
    return {"roles": name(", ".join(origin.roles))} if kind == "run.started" and origin.roles else {}


def _reason(fields: Mapping[str, Any]) -> str:
    for word in _WORDS:
        said = fields.get(word)
        if isinstance(said, RunError):
            said = said.message
        if isinstance(said, str) and said:
            return brief(said)
    return ""


def _outcome(fields: Mapping[str, Any]) -> str:
    for field in _OUTCOMES:
        if value := fields.get(field):
            return name(str(value.value if isinstance(value, Enum) else value))
    if fields.get("is_error"):
        return "error"
    return str(fields["kind"]).partition(".")[2]
