"""What the clerk's model answers: the first word of the task names a plan, the second the case."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from perdure.messages import ToolMessage
from perdure.testing import Call, Fault, Script, ScriptedRequest, Turn

FIELDS = ("name", "address", "balance")
Plan = Callable[..., Turn]
"""Takes the request and the words of the task after the first."""
STREAM_TEXT = "The case is settled, and this is the long letter that says so. " * 20


def answer(request: ScriptedRequest) -> Turn:
    """Take the next step of the plan that the task names."""
    plan, case, *rest = request.input.split()
    return PLANS[plan](request, case, *rest)


def _settle(request: ScriptedRequest, case: str) -> Turn:
    """Read in parallel, book, charge and refund; the last reply repeats every result."""
    turns = [
        Turn(calls=[Call("look_up", {"case": case, "field": field}) for field in FIELDS]),
        Turn("All there.", calls=[Call("book", {"case": case}), Call("look_up", {"case": case, "field": "limit"})]),
        Turn(calls=[Call("charge", {"case": case})]),
        Turn("Too much, so a part goes back.", calls=[Call("refund", {"case": case})]),
        Turn("; ".join(_results(request))),
    ]
    return turns[request.turn]


def _read(request: ScriptedRequest, case: str) -> Turn:
    """Read in parallel, three times."""
    if request.turn < 3:
        return Turn(calls=[Call("look_up", {"case": case, "field": field}) for field in FIELDS])
    return Turn("; ".join(_results(request)))


def _one_call(tool: str) -> Plan:
    """Return the plan to make one call, which takes as long as the task says, and to repeat its result."""

    def plan(request: ScriptedRequest, case: str, seconds: str) -> Turn:
        if request.turn == 0:
            return Turn(calls=[Call(tool, {"case": case, "seconds": float(seconds)})])
        return Turn("; ".join(_results(request)))

    return plan


def _stream(request: ScriptedRequest, case: str) -> Turn:
    """Answer at length, and the first time slowly."""
    return Turn(f"{case}: {STREAM_TEXT}", faults=[Fault.slow(between=timedelta(seconds=1))])


PLANS: dict[str, Plan] = {
    "settle": _settle,
    "read": _read,
    "transfer": _one_call("transfer"),
    "ponder": _one_call("ponder"),
    "charge_slowly": _one_call("charge_slowly"),
    "stream": _stream,
}
script = Script(answer)


def _results(request: ScriptedRequest) -> list[str]:
    return [
        result.content for message in request.messages if isinstance(message, ToolMessage) for result in message.results
    ]
