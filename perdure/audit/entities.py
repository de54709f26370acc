"""Workflows that stand for a record (an API key, a grant, a rollout, the auditor itself) as entries of the audit.

Their histories need no projector: such a workflow is made, lives as long as the record, and ends. What the record says
is the workflow's input, of which only fields known here are kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ConfigDict
from temporalio.api.history.v1 import (
    HistoryEvent,
    WorkflowExecutionCancelRequestedEventAttributes,
    WorkflowExecutionSignaledEventAttributes,
    WorkflowExecutionStartedEventAttributes,
    WorkflowExecutionTerminatedEventAttributes,
)

from perdure.audit.contracts import AUDITOR_WORKFLOW
from perdure.audit.facts import Origin, details_of
from perdure.audit.login import LOGIN_FAILED, FailedLoginBatch
from perdure.audit.record import AuditEntry, Place
from perdure.audit.words import MAX_NAME, brief, name
from perdure.events.payloads import read_first
from perdure.events.stamp import Stamp

SUBJECTS: Final = {"ApiKey": "key", "Grant": "grant", "Rollout": "rollout", AUDITOR_WORKFLOW: "auditor"}
"""What a workflow of a type stands for, as in `key.created`."""

_BY: Final = re.compile(r"revoked by (?P<who>[^:]{1,255})(?:: ?(?P<why>.*))?", re.DOTALL)
"""How we write who ended a workflow, as its identity is only the process's: `revoked by ann: lost`."""
_REPLACED: Final = "TerminateIfRunning"
"""How the server begins to say that another workflow of the same id took its place."""
_MAKERS: Final = ("created_by", "granted_by", "requested_by")
_KEPT: Final = frozenset({"key_id", "grant_id", "name", "roles", "scopes", "expires_at", "run_id", "approval_id"})


class _Made(BaseModel):
    """The input of such a workflow, whatever it is."""

    model_config = ConfigDict(extra="allow")

    org: str | None = None
    user: str | None = None


@dataclass(frozen=True)
class _Deed:
    """What happened to the record."""

    verb: str
    who: str = ""
    reason: str = ""
    identity: str = ""
    """Of the Temporal client, where somebody else is said to have done it."""


class Entity:
    """Derives entries from the history of one execution that stands for a record, fed in order from the first event."""

    def __init__(self, subject: str, *, run_id: str, execution_id: str) -> None:
        self._subject = subject
        self._origin = Origin(run_id=run_id, execution_id=execution_id)
        self._made: dict[str, Any] = {}

    @property
    def org(self) -> str:
        """Whose the record is, as far as that has been read."""
        return self._origin.org

    def feed(self, event: HistoryEvent, stamp: Stamp) -> Iterator[AuditEntry]:
        """Take in the next history event, its payloads decoded, and return what it means to the audit."""
        attributes = event.WhichOneof("attributes") or ""
        place = Place(stamp.history_event)
        match attributes:
            case "workflow_execution_started_event_attributes":
                started = event.workflow_execution_started_event_attributes
                self._begin(started)
                if not started.continued_execution_run_id:
                    yield self._entry(_Deed("created", self._maker(started.identity)), place, stamp)
            case "workflow_execution_signaled_event_attributes":
                yield from self._signaled(event.workflow_execution_signaled_event_attributes, stamp)
            case _ if attributes in _ENDS:
                yield self._entry(_ENDS[attributes](getattr(event, attributes)), place, stamp)

    def _begin(self, started: WorkflowExecutionStartedEventAttributes) -> None:
        made = read_first(started.input, _Made) or _Made()
        self._made = {"org": made.org or "", "user": made.user or "", **(made.model_extra or {})}
        self._origin = Origin(
            run_id=self._origin.run_id,
            execution_id=self._origin.execution_id,
            org=name(str(self._made["org"])),
            user=name(str(self._made["user"])),
            agent=name(str(self._made.get("agent") or "")),
        )

    def _maker(self, identity: str) -> str:
        maker = next((self._made[field] for field in _MAKERS if self._made.get(field)), identity)
        return name(", ".join(map(str, maker)) if isinstance(maker, list) else str(maker))

    def _signaled(self, signaled: WorkflowExecutionSignaledEventAttributes, stamp: Stamp) -> Iterator[AuditEntry]:
        if signaled.signal_name != LOGIN_FAILED:
            signal = _Deed("signaled", name(signaled.identity), brief(signaled.signal_name))
            yield self._entry(signal, Place(stamp.history_event), stamp)
            return
        batch = read_first(signaled.input, FailedLoginBatch) or FailedLoginBatch()
        for part, failed in enumerate(batch.failures):
            place = Place(stamp.history_event, part)
            kept = {"credential": name(failed.credential), "address": name(failed.address), "count": failed.count}
            yield AuditEntry(
                at=stamp.at,
                org=name(failed.org or ""),
                kind="login.failed",
                run_id=self._origin.run_id,
                execution_id=self._origin.execution_id,
                source=self._origin.source(place),
                outcome="failed",
                reason=name(failed.reason),
                details={field: value for field, value in kept.items() if value},
            )

    def _entry(self, deed: _Deed, place: Place, stamp: Stamp) -> AuditEntry:
        said = {field: value for field, value in self._made.items() if field in _KEPT}
        texts = {field: name(value) for field, value in said.items() if isinstance(value, str) and value}
        if isinstance(weights := self._made.get("weights"), dict):
            texts["weights"] = name(" ".join(f"{version}={weight}" for version, weight in weights.items()))
        if deed.identity:
            texts["identity"] = deed.identity
        return AuditEntry(
            at=stamp.at,
            org=self._origin.org,
            kind=f"{self._subject}.{deed.verb}",
            who=deed.who,
            user=self._origin.user,
            run_id=self._origin.run_id,
            execution_id=self._origin.execution_id,
            source=self._origin.source(place),
            agent=self._origin.agent,
            tool=name(str(self._made.get("tool") or "")),
            rule=name(str(self._made.get("rule") or "")),
            resource=brief(str(self._made.get("resource") or ""), MAX_NAME),
            outcome=deed.verb,
            reason=deed.reason,
            details=details_of(said) | texts,
        )


def _terminated(terminated: WorkflowExecutionTerminatedEventAttributes) -> _Deed:
    if terminated.reason.startswith(_REPLACED):
        return _Deed("replaced", name(terminated.identity))
    said = _BY.fullmatch(terminated.reason)
    if said is None:
        return _Deed("revoked", name(terminated.identity), brief(terminated.reason))
    return _Deed("revoked", name(said["who"]), brief(said["why"] or ""), identity=name(terminated.identity))


def _cancel_requested(requested: WorkflowExecutionCancelRequestedEventAttributes) -> _Deed:
    return _Deed("cancel_requested", name(requested.identity), brief(requested.cause))


# Any, as each takes its own attributes. The auditor's own ends are no deeds: it continues as new, or is terminated.
_ENDS: Final[dict[str, Callable[[Any], _Deed]]] = {
    "workflow_execution_terminated_event_attributes": _terminated,
    "workflow_execution_cancel_requested_event_attributes": _cancel_requested,
    "workflow_execution_timed_out_event_attributes": lambda _: _Deed("expired"),
    "workflow_execution_canceled_event_attributes": lambda _: _Deed("revoked"),
    "workflow_execution_completed_event_attributes": lambda _: _Deed("ended"),
    "workflow_execution_failed_event_attributes": lambda _: _Deed("failed"),
}
