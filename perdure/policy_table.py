"""Tables of cases for a policy: what each call must come to, as an operator writes it down and a test holds it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from perdure.app import App
from perdure.document import Document, did_you_mean, read_document, validated
from perdure.errors import InvalidInputError, PolicyError, UnknownAgentError
from perdure.explanation import Explanation, explain_decision
from perdure.messages import JsonObject
from perdure.policy import CallFacts, Permission, one_or_more
from perdure.policy_file import GoverningPolicy

MAX_TABLE_BYTES: Final = 1024 * 1024


class Case(BaseModel):
    """A call, and what the policy must say of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = ""
    agent: str
    """`NAME`, or `NAME@VERSION`."""
    tool: str
    role: Annotated[tuple[str, ...], BeforeValidator(one_or_more)] = ()
    """Roles of whoever started the run; none: the rules for everyone alone."""
    user: str | None = None
    arguments: JsonObject = Field(default_factory=dict)
    expect: Permission
    rule: str | None = None
    """Which rule must decide; None: whichever."""


class _Cases(BaseModel):
    model_config = ConfigDict(extra="forbid")

    cases: Annotated[tuple[Case, ...], Field(min_length=1)]


@dataclass(frozen=True)
class Failure:
    """A case that came out otherwise."""

    case: Case
    name: str
    """Its name, or its place in the table."""
    place: str
    """As `cases.yaml:12`."""
    explanation: Explanation

    def __str__(self) -> str:
        wanted = f"{self.case.expect} by {self.case.rule!r}" if self.case.rule else str(self.case.expect)
        got = f"{self.explanation.permission} by {self.explanation.rule!r}"
        return f"{self.place}: {self.name}: expected {wanted}, got {got}"


@dataclass(frozen=True)
class PolicyTable:
    """Cases, and where they were written."""

    cases: tuple[Case, ...]
    document: Document

    def failures(self, app: App) -> list[Failure]:
        """Return the cases that the app's policy does not decide as expected.

        Raises:
            PolicyError: A case names an agent, a tool or a rule that there is not; or the policy itself is wrong.
        """
        return list(self._failures(app))

    def _failures(self, app: App) -> Iterator[Failure]:
        for place, case in enumerate(self.cases):
            try:
                governing, call = facts(
                    app, agent=case.agent, tool=case.tool, roles=case.role, user=case.user, arguments=case.arguments
                )
            except (UnknownAgentError, InvalidInputError) as error:
                raise self.document.error(str(error), place=("cases", place)) from error
            self._check_rule(case, governing, place)
            explanation = explain_decision(governing, call)
            if explanation.permission is not case.expect or case.rule not in (None, explanation.rule):
                where = f"{self.document.file}:{self.document.line_of(('cases', place))}"
                yield Failure(case, case.name or f"case {place + 1}", where, explanation)

    def _check_rule(self, case: Case, governing: GoverningPolicy | None, place: int) -> None:
        names = [name for name, _ in governing.policy.named_rules] if governing else []
        if case.rule is not None and case.rule not in names and not case.rule.startswith(("default: ", "the tool ")):
            raise self.document.error(
                f"the policy has no rule {case.rule!r}{did_you_mean(case.rule, names)}", place=("cases", place, "rule")
            )


def read_table(file: Path | str) -> PolicyTable:
    """Read a table of cases, in YAML or TOML.

    Raises:
        PolicyError: It cannot be read, something in it is wrong, or it has no case.
    """
    document = read_document(Path(file), max_bytes=MAX_TABLE_BYTES, bound="split it into several tables")
    if not document.content.get("cases"):
        raise PolicyError("has no case, and so tests nothing; write them under 'cases'", file=str(file))
    return PolicyTable(validated(document, _Cases).cases, document)


def facts(
    app: App, *, agent: str, tool: str, roles: tuple[str, ...], user: str | None, arguments: JsonObject
) -> tuple[GoverningPolicy | None, CallFacts]:
    """Return what a policy judges of a call that an agent would make, and the policy.

    Raises:
        UnknownAgentError: The app has no such agent.
        InvalidInputError: The agent has no such tool.
    """
    name, _, version = agent.partition("@")
    chosen = app.agent(name, version or None)
    spec = app.resolve(chosen).tool(tool)
    if spec is None:
        known = ", ".join(chosen.tools) or "none"
        raise InvalidInputError(
            f"agent {name!r} has no tool {tool!r}{did_you_mean(tool, chosen.tools)}; it has: {known}"
        )
    return app.governing(chosen), CallFacts(tool=spec, arguments=arguments, agent=name, roles=roles, user=user)
