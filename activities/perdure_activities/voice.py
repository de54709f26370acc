"""What a model says in one attempt, on its way to the viewers: behind the guards, redacted, a few times a second."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final

from perdure.activities import ModelCall
from perdure.agent import AgentSpec
from perdure.deltas import DeltaBus, Piece
from perdure.stream_redaction import StreamRedactor

INTERVAL: Final = timedelta(milliseconds=25)
"""Between two pieces; what a model says meanwhile is one. The first comes at once."""


class Voice:
    """Passes on what one model says in one attempt."""

    def __init__(self, bus: DeltaBus, run_id: str, *, execution_id: str, step: int, attempt: int) -> None:
        """Begin; viewers are told of it if there may have been another attempt."""
        self._bus = bus
        self._run_id = run_id
        self._began = Piece(execution_id=execution_id, step=step, attempt=attempt, seq=0, text="")
        self._seq = 0
        self._heard: list[str] = []
        self._redactor = StreamRedactor()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._next = 0.0
        if attempt > 1:
            bus.publish(run_id, self._began)

    def say(self, text: str) -> None:
        """Take in what the guards let through."""
        self._heard.append(text)
        if self._timer is None:
            if self._loop.time() >= self._next:
                self._tell()
            else:
                self._timer = self._loop.call_at(self._next, self._tell)

    def end(self) -> None:
        """Pass on what is left, but for what may be the beginning of a secret: the reply itself has it, masked."""
        if self._timer is not None:
            self._timer.cancel()
            self._tell()

    def _tell(self) -> None:
        self._timer = None
        self._next = self._loop.time() + INTERVAL.total_seconds()
        text = self._redactor.feed("".join(self._heard))
        self._heard.clear()
        if text:
            self._seq += 1
            self._bus.publish(self._run_id, self._began.model_copy(update={"seq": self._seq, "text": text}))


def may_be_heard(spec: AgentSpec, call: ModelCall) -> bool:
    """Whether a reply may be seen before it is complete.

    Not where only the whole of it tells what must not be seen: the arguments that a tool declares as secret are masked
    in the words before the call, too, and what an output guard looks for may lie across a cut reply's end.
    """
    return not call.unfinished and not any(tool.secrets for tool in spec.tools)
