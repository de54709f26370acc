"""Rates: how often a tool or a model provider may be called, by all workers together.

A rate is kept by Temporal, at a task queue that serves nothing else; nothing of ours counts. This module knows how a
rate is written, and what such a queue is called.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import model_serializer, model_validator

from perdure.messages import Frozen

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600}
_WRITTEN: Final = re.compile(r"([1-9]\d{0,8})/([smh])", re.ASCII)


class Rate(Frozen):
    """So many calls a second, minute or hour; written `10/s`, `90/m`, `100/h`."""

    calls: int
    per: Literal["s", "m", "h"]

    @property
    def per_second(self) -> float:
        """Calls a second, as Temporal counts."""
        return self.calls / _SECONDS[self.per]

    def __str__(self) -> str:
        return f"{self.calls}/{self.per}"

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        match = _WRITTEN.fullmatch(value)
        if match is None:
            raise ValueError(f"{value!r} is no rate; write calls a second, minute or hour: '10/s', '90/m', '100/h'")
        return {"calls": match[1], "per": match[2]}

    @model_serializer
    def _write(self) -> str:
        return str(self)


@dataclass(frozen=True)
class RatedQueue:
    """A task queue whose tasks the server hands out at a rate."""

    name: str
    kind: Literal["tool", "model"]
    serves: str
    """The tool, or the provider of the models."""
    rate: Rate


def tool_queue(base: str, tool: str) -> str:
    """Return the task queue of a tool that has a rate, beside the task queue of its runs."""
    return f"{base}.tool.{tool}"


def model_queue(base: str, provider: str) -> str:
    """Return the task queue of a provider that has a rate, beside the task queue of its runs."""
    return f"{base}.model.{provider}"
