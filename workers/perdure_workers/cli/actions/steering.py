"""`perdure runs message`, `pause` and `resume`."""

from __future__ import annotations

import getpass
import sys

from perdure_api.schemas import HoldRequest, MessageRequest
from perdure_workers.cli.actions.connection import open_gateway
from perdure_workers.cli.actions.output import console
from perdure_workers.cli.actions.typed import typed
from perdure_workers.loading import load_at_hand


async def send_message(run_id: str, text: str, *, sender: str | None, app: str | None, address: str | None) -> None:
    """Say something to a run's model before it is called next. With the app at hand, its input guards are asked first.

    Raises:
        InvalidInputError: The text or the name is not what it must be.
        PerdureError: There is no such run, or it has ended, or the text is too large or refused.
    """
    said = sys.stdin.read() if text == "-" else text
    request = typed(MessageRequest, {"text": said, "from": sender or getpass.getuser()})
    async with open_gateway(address=address, app=load_at_hand(app)) as gateway:
        await gateway.runs.message(run_id, request)
    console().print(f"run {run_id} hears it with its next model call", soft_wrap=True, markup=False)


async def pause_run(run_id: str, *, by: str | None, reason: str, address: str | None) -> None:
    """Have a run start no further step.

    Raises:
        PerdureError: There is no such run, or it has ended.
    """
    request = typed(HoldRequest, {"by": by or getpass.getuser(), "reason": reason})
    async with open_gateway(address=address) as gateway:
        await gateway.runs.pause(run_id, request)
    console().print(
        f"asked run {run_id} to pause; go on with: perdure runs resume {run_id}", soft_wrap=True, markup=False
    )


async def resume_run(run_id: str, *, by: str | None, reason: str, address: str | None) -> None:
    """Have a paused run go on.

    Raises:
        PerdureError: There is no such run, or it has ended.
    """
    request = typed(HoldRequest, {"by": by or getpass.getuser(), "reason": reason})
    async with open_gateway(address=address) as gateway:
        await gateway.runs.resume(run_id, request)
    console().print(f"asked run {run_id} to go on", soft_wrap=True, markup=False)
