"""Reading what history holds: payloads as our models, failures as words. Whatever cannot be read is None."""

from __future__ import annotations

from typing import Any, Final, TypeVar

from pydantic import BaseModel, Field, ValidationError
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.api.enums.v1 import TimeoutType
from temporalio.api.failure.v1 import Failure

from perdure.activities import TailMessage
from perdure.contracts import Totals
from perdure.messages import Frozen, JsonObject, ToolResult

M = TypeVar("M", bound=BaseModel)

ENCODED: Final = "Encoded failure"
"""What the SDK has a failure say whose words are in its encoded attributes."""

_TIMEOUTS: Final = {
    TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE: "it took too long",
    TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START: "no worker took it up in time",
    TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE: "it was not done in time, retries included",
    TimeoutType.TIMEOUT_TYPE_HEARTBEAT: "the worker was lost",
}


class OpenCall(Frozen):
    """A tool call of the last reply that the model has not heard the answer of."""

    step: int
    provider_id: str
    tool: str
    arguments: JsonObject = Field(default_factory=dict)
    result: ToolResult | None = None
    answered: bool = False
    """An event told the answer already."""


class CarriedState(Frozen):
    """What events need to know of the state that continue-as-new carries."""

    totals: Totals = Totals()
    calls: tuple[OpenCall, ...] = ()
    last_words: str = ""
    tail: tuple[TailMessage, ...] = ()
    denied: dict[int, str] = Field(default_factory=dict)


class CarriedRun(Frozen):
    """The input of an execution that goes on with an earlier one's state."""

    state: CarriedState | None = None


def read(payload: Payload | None, model: type[M]) -> M | None:
    """Read a payload as a model, if it is one."""
    if payload is None:
        return None
    try:
        return model.model_validate_json(payload.data)
    except ValidationError:
        return None


def read_first(payloads: Payloads, model: type[M]) -> M | None:
    """Read the only argument, or the result, of a workflow, activity or signal."""
    return read(payloads.payloads[0], model) if payloads.payloads else None


def describe(failure: Failure) -> tuple[str, str]:
    """Say what went wrong, and the error's stable name or the time limit's."""
    if failure.HasField("server_failure_info") and failure.cause.message not in ("", ENCODED):
        # What an activity is to be retried for, the server keeps in 4 KiB, cut and inside a failure of its own.
        return describe(failure.cause)
    match failure.WhichOneof("failure_info"):
        case "timeout_failure_info":
            limit = failure.timeout_failure_info.timeout_type
            return _TIMEOUTS.get(limit, failure.message), short_name(TimeoutType, limit)
        case "application_failure_info":
            return failure.message, failure.application_failure_info.type
        case "canceled_failure_info":
            return failure.message or "it was cancelled", "cancelled"
    return failure.message, failure.source


def short_name(enum: Any, value: int) -> str:
    """Return the name of an enum's value as one writes it: `SCHEDULE_TO_START`'s is `schedule_to_start`.

    Args:
        enum: One of Temporal's, whose names repeat the enum's own as a prefix.
        value: A number, perhaps of a newer server.
    """
    try:
        name: str = enum.Name(value)
        unspecified: str = enum.Name(0)
    except ValueError:
        return f"unknown ({value})"
    return name.removeprefix(unspecified.removesuffix("UNSPECIFIED")).lower()
