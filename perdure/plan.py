"""A run's plan: what the model means to do, in its own words, kept up to date by a tool of the runtime's own.

The tool is answered by the run itself: it needs no worker, no policy and no event beyond the model's reply.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from perdure.messages import AssistantMessage, Frozen, JsonObject, Message
from perdure.tool import BuiltIn, ToolSpec

MAX_PLANNED: Final = 50
MAX_PLANNED_CHARACTERS: Final = 500
NOTED: Final = "The plan is noted."


class PlanStatus(StrEnum):
    """How far a part of a plan is."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"


class PlannedStep(Frozen):
    """A part of a plan."""

    step: str = Field(min_length=1, max_length=MAX_PLANNED_CHARACTERS)
    """What is to be done."""
    status: PlanStatus = PlanStatus.PENDING


class _Update(BaseModel):
    model_config = ConfigDict(extra="forbid")

    plan: tuple[PlannedStep, ...] = Field(max_length=MAX_PLANNED)


PLAN_TOOL: Final = ToolSpec(
    name="update_plan",
    description=(
        "Write down your plan, or how far you are with it, for the people who follow this task. Use it for tasks of "
        "several steps: once when you begin, and again whenever a step is begun or completed. Give the whole plan each "
        "time; at most one step is in progress."
    ),
    input_schema={
        "type": "object",
        "properties": {
            "plan": {
                "type": "array",
                "maxItems": MAX_PLANNED,
                "items": {
                    "type": "object",
                    "properties": {
                        "step": {"type": "string", "description": "What is to be done, in a few words."},
                        "status": {"type": "string", "enum": [status.value for status in PlanStatus]},
                    },
                    "required": ["step", "status"],
                    "additionalProperties": False,
                },
            }
        },
        "required": ["plan"],
        "additionalProperties": False,
    },
    built_in=BuiltIn.PLAN,
)
"""What an agent with `plan=True` has beside its tools."""


def plan_of(arguments: JsonObject) -> tuple[PlannedStep, ...]:
    """Return the plan that a call of the tool gives.

    Raises:
        ValueError: It gives none; the message says what would be right.
    """
    try:
        return _Update.model_validate(arguments).plan
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise ValueError(f"{place or 'arguments'}: {problem['msg']}") from error


def latest_plan(messages: Sequence[Message]) -> tuple[PlannedStep, ...]:
    """Return the plan that a conversation of a planning agent has come to, empty without one."""
    for message in reversed(messages):
        if isinstance(message, AssistantMessage):
            for call in reversed(message.tool_calls):
                if call.name == PLAN_TOOL.name:
                    with suppress(ValueError):  # the model was told so
                        return plan_of(call.arguments)
    return ()
