"""A debugger that stops in the run's own code at one step: where the call is made, and where its result is taken up."""

from __future__ import annotations

import pdb
import sys
from types import FrameType
from typing import IO, Final

_OURS: Final = ("perdure_workflows.", "perdure.")
"""Packages with the run's code; what lies between two lines of it is nowhere to stop."""


class StepDebugger(pdb.Pdb):
    """Python's debugger, with the commands it always has, entered at a step of a replayed run."""

    def __init__(self, step: int, *, stdin: IO[str] | None = None, stdout: IO[str] | None = None) -> None:
        """Prepare to stop.

        Args:
            step: Number of the model call or tool call.
            stdin: Where commands come from; default: the terminal.
            stdout: Where the debugger writes; default: the terminal.
        """
        super().__init__(stdin=stdin, stdout=stdout, nosigint=True)
        self.step: Final = step
        self.stopped = False
        """The replay came to the step."""
        self._dismissed = False

    def call_made(self, activity: str) -> None:
        """Stop in the run's function that calls an activity. To be called from below it."""
        if self._dismissed:
            return
        frame = _nearest_of_ours(sys._getframe())
        self.stopped = True
        self.message(f"Step {self.step}: {activity} is called. 'c' goes on to its result, 'q' to the end of the run.")
        self.reset()
        self.interaction(frame, None)
        continued = self.stoplineno == -1
        if self.breaks or not continued:
            self._trace_from(frame)

    def result_arrived(self, activity: str) -> None:
        """Stop where the run's code takes the result up. To be called before it does."""
        if self._dismissed:
            return
        self.message(f"Step {self.step}: {activity} is back.")
        self.reset()
        self.set_step()
        sys.settrace(self.trace_dispatch)

    def stop_here(self, frame: FrameType) -> bool:
        """Stop only in the run's code, and at breakpoints wherever they are."""
        return _is_ours(frame) and super().stop_here(frame)

    def user_call(self, frame: FrameType, argument_list: None) -> None:
        """Do not stop where a function is entered: resuming a coroutine looks like entering it."""

    def do_quit(self, arg: str) -> bool | None:
        """Leave the debugger and let the replay come to its end."""
        # pdb's own quit raises in the middle of the run, which would look as if the run's code had failed.
        self._dismissed = True
        self.clear_all_breaks()
        return self.do_continue(arg)

    do_q = do_exit = do_EOF = do_quit  # noqa: N815  # pdb looks commands up by name

    def _trace_from(self, frame: FrameType | None) -> None:
        while frame:
            frame.f_trace = self.trace_dispatch
            self.botframe = frame
            frame = frame.f_back
        sys.settrace(self.trace_dispatch)


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith(_OURS)


def _nearest_of_ours(frame: FrameType) -> FrameType:
    """Return the innermost frame of the run's code; this one if there is none."""
    caller: FrameType | None = frame
    while caller and not _is_ours(caller):
        caller = caller.f_back
    return caller or frame
