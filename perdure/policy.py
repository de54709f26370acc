"""The policy: the document that says which calls run, which a human decides on, and which never run.

A pure function of the document, the call and who asks; pinned in a run's history when it starts. Rules are read in
order and the first that matches decides. A rule of which it cannot be told whether it matches (an argument is missing,
or may mean something else to its tool) never widens: the narrowest of such rules and of the first that matches for sure
is taken.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from perdure.approval import ApprovalRequirement
from perdure.budget import Budgets, Concurrency, TimeZone
from perdure.condition import Condition, Verdict, condition_holds, every, matches
from perdure.messages import Frozen, JsonObject
from perdure.principal import ANY
from perdure.resource import OWN, own_resource, resource_of
from perdure.tool import Approval, Effect, ToolSpec

MAX_RULES: Final = 500


class Permission(StrEnum):
    """What a policy says of a call."""

    ALLOW = "allow"
    """It runs."""
    ASK = "ask"
    """A human decides."""
    DENY = "deny"
    """It never runs; the model hears why."""

    @property
    def severity(self) -> int:
        """Order by how little is permitted: allow is 0, deny is 2."""
        return (Permission.ALLOW, Permission.ASK, Permission.DENY).index(self)


def _one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Patterns = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=256)], ...], BeforeValidator(_one_or_more)]
"""Globs, of which one must match; a single one need not be a list."""


class Rule(Frozen):
    """One line of the permission matrix. What is left out matches everything."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(max_length=100)] = ""
    """What decisions, events and audit call it; default: `rule 3`, by its place."""
    role: Patterns = (ANY,)
    """Roles of whoever started the run."""
    agent: Patterns = (ANY,)
    tool: Patterns = (ANY,)
    effect: Annotated[tuple[Effect, ...], BeforeValidator(_one_or_more)] = ()
    resource: Patterns | None = None
    """Of the tool's `resource` template; `own:mailbox` is the mailbox of the user on whose behalf the run is."""
    when: Condition = Field(default_factory=dict)
    permission: Permission
    approval: ApprovalRequirement | None = None
    """For `ask`: who must approve. Default: the policy's `approval`."""

    @model_validator(mode="after")
    def _consistent(self) -> Rule:
        if self.approval is not None and self.permission is not Permission.ASK:
            raise ValueError(f"approval goes with permission: ask, not {self.permission}")
        return self


class Policy(Frozen):
    """The governing document of an app: `PERDURE_POLICY`, or `App(policy=…)`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    strict: bool = False
    """A tool that no rule names is denied. Without it, only a `once` tool is; others go by their own declaration."""
    rules: Annotated[tuple[Rule, ...], Field(max_length=MAX_RULES)] = ()
    approval: ApprovalRequirement = ApprovalRequirement()
    """Of every approval whose rule says nothing else."""
    budgets: Budgets = ()
    """What runs may cost; of those that count a run, each must have room for its next call."""
    concurrency: Concurrency = Concurrency()
    """How many runs may be open at once."""
    time_zone: TimeZone = "UTC"
    """Where a budget's days and months begin and end."""
    unpriced: Literal["deny", "flag"] = "flag"
    """A model that nobody has a price for is not called, or is called and marked as unpriced."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> Policy:
        names = [rule.name for rule in self.rules if rule.name]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two rules are named {twice[0]!r}; a decision tells its rule by name")
        return self


@dataclass(frozen=True)
class CallFacts:
    """What a policy judges."""

    tool: ToolSpec
    arguments: JsonObject
    agent: str
    roles: tuple[str, ...] = ()
    """Of whoever started the run; `*` is every role."""
    user: str | None = None
    """On whose behalf the run is."""

    @property
    def resource(self) -> str | None:
        """What the call touches, by the tool's template; None if it has none or it cannot be filled in."""
        template = self.tool.resource
        return None if template is None else resource_of(template, self.arguments, user=self.user)


@dataclass(frozen=True)
class PolicyDecision:
    """What a policy says of a call, and by which rule."""

    permission: Permission
    rule: str
    """The rule's name, or in which default none was found."""
    approval: ApprovalRequirement
    """For `ask`."""
    resource: str | None = None
    uncertain: bool = False
    """The rule was taken as the narrower one, because it could not be told whether it matches."""


def decide(policy: Policy | None, call: CallFacts) -> PolicyDecision:
    """Judge a call.

    Args:
        policy: None: the tools' own declarations are all there is.
        call: The tool, its arguments, and who asks.
    """
    resource = call.resource
    default_approval = policy.approval if policy else ApprovalRequirement()
    decided = PolicyDecision(*_default(policy, call.tool), approval=default_approval, resource=resource)
    for place, rule in reversed(list(enumerate(policy.rules if policy else (), 1))):
        verdict = _applies(rule, call, resource)
        if verdict is False:
            continue
        found = PolicyDecision(
            rule.permission,
            rule.name or f"rule {place}",
            approval=rule.approval or default_approval,
            resource=resource,
            uncertain=verdict is None,
        )
        # Read backwards, what is decided so far is what the rules behind this one say.
        if verdict or found.permission.severity > decided.permission.severity:
            decided = found
    return _never_below_the_tool(decided, call.tool, default_approval)


def _applies(rule: Rule, call: CallFacts, resource: str | None) -> Verdict:
    certain = (
        _role_matches(rule.role, call.roles)
        and _any_glob(rule.agent, call.agent)
        and _any_glob(rule.tool, call.tool.name)
        and (not rule.effect or call.tool.effect in rule.effect)
    )
    if not certain:
        return False
    return every([_resource_matches(rule, call, resource), condition_holds(rule.when, call.arguments)])


def _resource_matches(rule: Rule, call: CallFacts, resource: str | None) -> Verdict:
    if rule.resource is None or ANY in rule.resource:
        return True
    if call.tool.resource is None:
        return False
    if resource is None:
        return None
    patterns = (own_resource(one, call.user) if one.startswith(OWN) else one for one in rule.resource)
    verdicts = [matches(pattern, resource) for pattern in patterns if pattern is not None]
    return True if True in verdicts else None if None in verdicts else False


def _role_matches(patterns: Iterable[str], roles: tuple[str, ...]) -> bool:
    return ANY in patterns or ANY in roles or any(_any_glob(patterns, role) for role in roles)


def _any_glob(patterns: Iterable[str], text: str) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)


def _default(policy: Policy | None, tool: ToolSpec) -> tuple[Permission, str]:
    """Return what holds for a tool that no rule names, and what that is called."""
    if policy is not None and policy.strict:
        return Permission.DENY, "default: strict, and no rule names the call"
    if policy is not None and tool.effect is Effect.ONCE:
        return Permission.DENY, "default: no rule names the call of a 'once' tool"
    return Permission(tool.approval.value), "default: the tool's own declaration"


def _never_below_the_tool(
    decided: PolicyDecision, tool: ToolSpec, default_approval: ApprovalRequirement
) -> PolicyDecision:
    if decided.permission is not Permission.ALLOW or not tool.asks_always or tool.approval is not Approval.ASK:
        return decided
    return PolicyDecision(Permission.ASK, "the tool asks always", approval=default_approval, resource=decided.resource)
