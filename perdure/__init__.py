"""Perdure: LLM agents in production on Temporal. This is the authoring API; everything else starts at the worker."""

from perdure.agent import Agent, Limits
from perdure.app import App
from perdure.errors import InputRefusedError, PerdureError, ToolError
from perdure.guard import Guard
from perdure.input_guard import InputContext
from perdure.scored_run import Judgement, ScoredCall, ScoredRun
from perdure.scorer import ModelScorer
from perdure.tool import NOT_DONE, Approval, Effect, NotDone, ToolContext

__all__ = [
    "NOT_DONE",
    "Agent",
    "App",
    "Approval",
    "Effect",
    "Guard",
    "InputContext",
    "InputRefusedError",
    "Judgement",
    "Limits",
    "ModelScorer",
    "NotDone",
    "PerdureError",
    "ScoredCall",
    "ScoredRun",
    "ToolContext",
    "ToolError",
]
