"""What callers send and get about rollouts."""

from __future__ import annotations

from perdure.rollout import Rollout, Weights
from perdure_api.schemas import Answer, Request
from perdure_api.text import Line, SearchKey


class RolloutFilter(Request):
    """Whose rollout."""

    org: SearchKey | None = None
    """Default, and for a caller of an organisation the only one: the caller's. None: everybody's."""


class NewRollout(RolloutFilter):
    """How runs are to be shared out among the versions of an agent."""

    weights: Weights
    by: Line | None = None
    """The caller, if it is known who that is."""


class RolloutEnd(RolloutFilter):
    """Whose rollout ends, and who ends it."""

    by: Line | None = None
    """The caller, if it is known who that is."""


class AgentRollout(Answer):
    """How a run of an agent gets its version, if neither the request names one nor its session has one."""

    agent: str
    newest: str
    """The version that was registered last: that of every run while there is no rollout."""
    shares: dict[str, float]
    """The part of new users that each registered version gets, from 0 to 1."""
    rollout: Rollout | None = None
    """The rollout that holds: the organisation's own, else everybody's; None: there is none."""
