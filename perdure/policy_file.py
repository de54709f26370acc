"""Where an app's policy comes from: a document with lines to name in errors, or a `Policy` made in Python."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from perdure.document import Document, read_document, validated
from perdure.errors import PolicyError
from perdure.policy import Policy

MAX_POLICY_BYTES: Final = 64 * 1024
"""The largest policy, as a file and as JSON: it is pinned in the history of every run."""
_BOUND: Final = "a policy is pinned in the history of every run"


@dataclass(frozen=True)
class GoverningPolicy:
    """A policy, and where it was written."""

    policy: Policy
    document: Document | None = None
    """None: it was made in Python."""

    def line_of(self, rule: int, *parts: str | int) -> int | None:
        """Return the line of a rule, counted from 0, or of a part of it; None if there are no lines."""
        return self.document.line_of(("rules", rule, *parts)) if self.document else None

    def place_of(self, rule: int, *parts: str | int) -> str:
        """Return where a rule is written, as `policy.yaml:12`; empty if nowhere."""
        return f"{self.document.file}:{self.line_of(rule, *parts)}" if self.document else ""

    def error(self, message: str, *, rule: int, parts: tuple[str | int, ...] = ()) -> PolicyError:
        """Return the error that a rule, counted from 0, is wrong."""
        file = str(self.document.file) if self.document else ""
        return PolicyError(message, file=file, line=self.line_of(rule, *parts))


class PolicySource:
    """A policy that is read when it is first asked for: nothing is read where an app is put together."""

    def __init__(self, given: Policy | Path | str) -> None:
        self._given = given

    @cached_property
    def governing(self) -> GoverningPolicy:
        """The policy.

        Raises:
            PolicyError: As `load_policy`.
        """
        return load_policy(self._given)


def load_policy(given: Policy | Path | str) -> GoverningPolicy:
    """Return a policy from a file, or one that was made in Python.

    Raises:
        PolicyError: The file cannot be read, something in it is wrong, or the policy is too large.
    """
    if isinstance(given, Policy):
        return _bounded(GoverningPolicy(given))
    document = read_document(Path(given), max_bytes=MAX_POLICY_BYTES, bound=_BOUND)
    return _bounded(GoverningPolicy(validated(document, Policy), document))


def _bounded(governing: GoverningPolicy) -> GoverningPolicy:
    size = len(governing.policy.model_dump_json().encode())
    if size > MAX_POLICY_BYTES:
        raise PolicyError(
            f"the policy is {size:,} bytes of JSON; at most {MAX_POLICY_BYTES:,} fit, as {_BOUND}",
            file=str(governing.document.file) if governing.document else "",
        )
    return governing
