"""Input guards: an author's own checks of what people say to an agent, before a run starts or a message joins it.

Not for workflow code: they run where a run is started and where a message is sent, in the API and the command line.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal

import structlog

from perdure.errors import InputRefusedError

TIME_LIMIT: Final = timedelta(seconds=10)
"""How long one check may take."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class InputContext:
    """What a check may know beside the text."""

    kind: Literal["input", "message"]
    """What starts a run, or what is said to one under way."""
    agent: str
    version: str
    user: str | None = None
    """On whose behalf the run is."""
    org: str | None = None
    session_id: str | None = None
    run_id: str | None = None
    """For a message: the run."""
    sender: str | None = None
    """For a message: who says it, by their own word."""


InputCheck = Callable[[str, InputContext], Awaitable[None] | None]
"""Returns if the text may pass, and raises `InputRefusedError` with words for the caller if it may not."""


async def check_input(checks: Iterable[InputCheck], text: str, context: InputContext) -> None:
    """Put a text to checks, one after the other.

    Raises:
        InputRefusedError: One of them refuses it; or breaks, or takes too long, as then nobody has judged it.
    """
    for check in checks:
        try:
            async with asyncio.timeout(TIME_LIMIT.total_seconds()):
                await _run(check, text, context)
        except InputRefusedError:
            raise
        except Exception as error:  # user code may raise anything
            name = getattr(check, "__qualname__", repr(check))
            log.exception("input_check_broke", check=name, agent=context.agent, kind=context.kind)
            raise InputRefusedError(f"the {context.kind} could not be checked, so it is not taken") from error


async def _run(check: InputCheck, text: str, context: InputContext) -> None:
    if inspect.iscoroutinefunction(check):
        await check(text, context)
        return
    result = await asyncio.to_thread(check, text, context)
    if inspect.isawaitable(result):
        await result
