"""`perdure runs message`, `pause` and `resume`."""

from __future__ import annotations

import getpass
import sys
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from perdure.errors import InvalidInputError
from perdure_api.schemas import HoldRequest, MessageRequest
from perdure_workers.cli.actions.connection import gateway
from perdure_workers.cli.actions.output import console

M = TypeVar("M", bound=BaseModel)


async def send_message(run_id: str, text: str, *, sender: str | None, address: str | None) -> None:
    """Say something to a run's model before it is called next.

    Raises:
        InvalidInputError: The text or the name is not what it must be.
        PerdureError: There is no such run, or it has ended, or the text is too large.
    """
    said = sys.stdin.read() if text == "-" else text
    request = _request(MessageRequest, {"text": said, "from": sender or getpass.getuser()})
    async with gateway(address=address) as runs:
        await runs.message(run_id, request)
    console().print(f"run {run_id} hears it with its next model call", soft_wrap=True, markup=False)


async def pause_run(run_id: str, *, by: str | None, reason: str, address: str | None) -> None:
    """Have a run start no further step.

    Raises:
        PerdureError: There is no such run, or it has ended.
    """
    request = _request(HoldRequest, {"by": by or getpass.getuser(), "reason": reason})
    async with gateway(address=address) as runs:
        await runs.pause(run_id, request)
    console().print(
        f"asked run {run_id} to pause; go on with: perdure runs resume {run_id}", soft_wrap=True, markup=False
    )


async def resume_run(run_id: str, *, by: str | None, reason: str, address: str | None) -> None:
    """Have a paused run go on.

    Raises:
        PerdureError: There is no such run, or it has ended.
    """
    request = _request(HoldRequest, {"by": by or getpass.getuser(), "reason": reason})
    async with gateway(address=address) as runs:
        await runs.resume(run_id, request)
    console().print(f"asked run {run_id} to go on", soft_wrap=True, markup=False)


def _request(model: type[M], typed: dict[str, Any]) -> M:
    try:
        return model.model_validate(typed)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise InvalidInputError(f"{'.'.join(str(place) for place in problem['loc'])}: {problem['msg']}") from error
