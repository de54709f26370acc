"""Tests for agents without a model vendor: a scripted one, which the official SDKs talk to as to the real ones.

    from perdure.testing import Call, Fault, Script, ScriptedModel, Turn

    script = Script(
        [
            Turn(calls=[Call("find_order", {"order_id": 7})], faults=[Fault.rate_limited(timedelta(seconds=1))]),
            Turn("Your order has left."),
        ]
    )
    async with ScriptedModel(script) as model:
        os.environ.update(model.environment())

As a process of its own: `python -m perdure.testing --script package.module:script`.
"""

from perdure.activities import Finish
from perdure.contracts import Usage
from perdure.testing.fault import Fault, FaultKind
from perdure.testing.polling import eventually
from perdure.testing.scored_run import scored_run
from perdure.testing.script import Call, Script, ScriptedRequest, ScriptFunction, Turn, load_script
from perdure.testing.server import RecordedRequest, Requests, ScriptedModel
from perdure.testing.tool_call import run_tool, tool_context

__all__ = [
    "Call",
    "Fault",
    "FaultKind",
    "Finish",
    "RecordedRequest",
    "Requests",
    "Script",
    "ScriptFunction",
    "ScriptedModel",
    "ScriptedRequest",
    "Turn",
    "Usage",
    "eventually",
    "load_script",
    "run_tool",
    "scored_run",
    "tool_context",
]
