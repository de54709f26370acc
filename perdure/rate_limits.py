"""How often one caller may call the HTTP API: an operator's setting, by what a request does and who sends it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from perdure.rate import Rate

Act = Literal["read", "write", "decision"]
"""What a request does. Each is counted by itself, so that none can use up what another one needs.

`decision` is whatever a human does about a run: decide, revoke a grant, pause, resume, say something, cancel.
"""


def _off(value: Any) -> Any:
    return None if value == "off" else value


def _rate(written: str) -> Any:
    return Field(default_factory=lambda: Rate.model_validate(written))


Limit = Annotated[Rate | None, BeforeValidator(_off)]
"""A rate, or none: `off`."""


class Allowance(BaseModel):
    """How often requests of one kind may come: of one API key, of one user over all keys, of one organisation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: Limit
    user: Limit
    org: Limit


class Reads(Allowance):
    """For looking at runs, events, approvals and agents. A stream of events counts once."""

    key: Limit = _rate("1200/m")
    user: Limit = _rate("600/m")
    org: Limit = _rate("6000/m")


class Writes(Allowance):
    """For starting runs."""

    key: Limit = _rate("600/m")
    user: Limit = _rate("300/m")
    org: Limit = _rate("1200/m")


class Decisions(Allowance):
    """For what a human does about a run."""

    key: Limit = _rate("600/m")
    user: Limit = _rate("300/m")
    org: Limit = _rate("3000/m")


class RateLimits(BaseModel):
    """Every limit of the API."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool | None = None
    """None: where callers are known by a key or token. While the API is open, a caller is an address."""
    read: Reads = Reads()
    write: Writes = Writes()
    decision: Decisions = Decisions()

    def allowance(self, act: Act) -> Allowance:
        """Return what holds for requests that do this."""
        match act:
            case "read":
                return self.read
            case "write":
                return self.write
            case "decision":
                return self.decision
