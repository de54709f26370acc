"""Notices as events: deliveries that the run started, and what became of them while it went on."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.message import Message as Proto
from temporalio.api.history.v1 import (
    ChildWorkflowExecutionCanceledEventAttributes,
    ChildWorkflowExecutionCompletedEventAttributes,
    ChildWorkflowExecutionFailedEventAttributes,
    ChildWorkflowExecutionTerminatedEventAttributes,
    ChildWorkflowExecutionTimedOutEventAttributes,
    StartChildWorkflowExecutionFailedEventAttributes,
    StartChildWorkflowExecutionInitiatedEventAttributes,
)

from perdure.endpoint import parse_endpoint
from perdure.events.event import NoticeChanged, RunEvent
from perdure.events.payloads import describe, read_first
from perdure.events.stamp import Stamp
from perdure.notice import DELIVERY_NAME, Notice


class NoticeLog:
    """Follows the deliveries of one execution."""

    def __init__(self) -> None:
        self._under_way: dict[int, Notice] = {}

    def feed(self, attributes: Proto, stamp: Stamp) -> Iterator[RunEvent]:
        """Return the events of a child workflow's history event."""
        match attributes:
            case StartChildWorkflowExecutionInitiatedEventAttributes():
                if attributes.workflow_type.name == DELIVERY_NAME and (notice := read_first(attributes.input, Notice)):
                    self._under_way[stamp.history_event] = notice
                    yield _event("notice.sent", notice, stamp)
            case ChildWorkflowExecutionCompletedEventAttributes():
                if notice := self._under_way.pop(attributes.initiated_event_id, None):
                    yield _event("notice.delivered", notice, stamp)
            case ChildWorkflowExecutionFailedEventAttributes():
                if notice := self._under_way.pop(attributes.initiated_event_id, None):
                    yield _event("notice.failed", notice, stamp, error=describe(attributes.failure)[0])
            case (
                ChildWorkflowExecutionCanceledEventAttributes()
                | ChildWorkflowExecutionTerminatedEventAttributes()
                | ChildWorkflowExecutionTimedOutEventAttributes()
                | StartChildWorkflowExecutionFailedEventAttributes()
            ):
                if notice := self._under_way.pop(attributes.initiated_event_id, None):
                    yield _event("notice.failed", notice, stamp, error=_ENDS[type(attributes)])


_ENDS: dict[type[Proto], str] = {
    ChildWorkflowExecutionCanceledEventAttributes: "the delivery was cancelled",
    ChildWorkflowExecutionTerminatedEventAttributes: "the delivery was terminated",
    ChildWorkflowExecutionTimedOutEventAttributes: "no worker took the delivery up in time",
    StartChildWorkflowExecutionFailedEventAttributes: "the delivery could not be started",
}


def _event(kind: str, notice: Notice, stamp: Stamp, *, error: str = "") -> NoticeChanged:
    return NoticeChanged.model_validate(
        {
            "id": stamp.next_id(),
            "at": stamp.at,
            "kind": kind,
            "notice_id": notice.notice_id,
            "about": notice.type,
            "host": parse_endpoint(notice.url).host,
            "error": error,
        }
    )
