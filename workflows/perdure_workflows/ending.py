"""How a run comes to its end, before it is one: its record is closed with it."""

from __future__ import annotations

from dataclasses import dataclass

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from perdure.budget import Refusal
    from perdure.contracts import RunError, RunStatus


class RunFailsError(Exception):
    """What happened ends the whole run as failed."""

    def __init__(self, error: RunError) -> None:
        super().__init__(error.message)
        self.error = error


@dataclass(frozen=True)
class Ending:
    """What the run would end with."""

    status: RunStatus
    why: str = ""
    output: str | None = None
    """None: the model's last words."""
    error: RunError | None = None
    refusal: Refusal | None = None
    """By the budget that had no room."""

    @property
    def is_answer(self) -> bool:
        """Whether it is the model's own answer, which is not the last word once somebody has spoken."""
        return self.status is RunStatus.COMPLETED and self.error is None
