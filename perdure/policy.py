"""The policy: the document that says which calls run, which a human decides on, and which never run.

A pure function of the document, the call and who asks; pinned in a run's history when it starts. Rules are read in
order and the first that matches decides. A rule of which it cannot be told whether it matches (an argument is missing,
or may mean something else to its tool) never widens: the narrowest of such rules and of the first that matches for sure
is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, model_validator

from perdure.approval import ApprovalRequirement
from perdure.argument import find_argument
from perdure.budget import Budgets, Concurrency, TimeZone
from perdure.condition import Condition
from perdure.glob import matches_any_name, matches_text
from perdure.messages import JsonObject
from perdure.notification import MAX_TARGETS, NotificationTarget
from perdure.pinned import Pinned
from perdure.principal import ANY
from perdure.reading import Verdict, every, some
from perdure.resource import OWN, Resource, own_resource, resource_of
from perdure.tool import Approval, Effect, ToolSpec

MAX_RULES: Final = 500
TOOL_ASKS: Final = "the tool asks always"
"""Stands for a rule where the tool's author has the last word."""
_DEFAULT: Final = "default: "
"""Begins what stands for a rule where none matches."""


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


def one_or_more(value: Any) -> Any:
    """Take a single text where a list of them may stand."""
    return (value,) if isinstance(value, str) else value


Patterns = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=256)], ...],
    Field(min_length=1),
    BeforeValidator(one_or_more),
]
"""Globs, of which one must match; a single one need not be a list."""
RuleName = Annotated[
    str, Field(max_length=100, pattern=r"^([^\s\x00-\x1f\x7f]([^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f])?)?$")
]


class Rule(Pinned):
    """One line of the permission matrix. What is left out matches everything."""

    name: RuleName = ""
    """What decisions, events and audit call it; default: `rule 3`, by its place."""
    role: Patterns = (ANY,)
    """Roles of whoever started the run."""
    agent: Patterns = (ANY,)
    tool: Patterns = (ANY,)
    effect: Annotated[tuple[Effect, ...], BeforeValidator(one_or_more)] = ()
    """Effects that the tool may have; none: whichever."""
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


class Policy(Pinned):
    """The governing document of an app: `PERDURE_POLICY`, or `App(policy=…)`."""

    strict: bool = False
    """A call that no rule matches is denied. Without it, only a `once` tool's is; others go by their declaration."""
    shared: bool = False
    """Several apps share the document: a rule for tools or agents that one of them lacks is no mistake."""
    rules: Annotated[tuple[Rule, ...], Field(max_length=MAX_RULES)] = ()
    approval: ApprovalRequirement = ApprovalRequirement()
    """Of every approval whose rule says nothing else."""
    notify: Annotated[tuple[NotificationTarget, ...], Field(max_length=MAX_TARGETS)] = ()
    """Who is told of approvals and ends of runs."""
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
        names = [name for name, _ in self.named_rules]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise ValueError(f"two rules are named {twice!r}; a decision tells its rule by name")
        taken = next((name for name in names if name == TOOL_ASKS or name.startswith(_DEFAULT)), None)
        if taken:
            raise ValueError(f"no rule can be named {taken!r}: so begins what is decided without one")
        return self

    @property
    def named_rules(self) -> tuple[tuple[str, Rule], ...]:
        """The rules, each with what decisions call it."""
        return tuple((rule.name or f"rule {place}", rule) for place, rule in enumerate(self.rules, 1))


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
    def touched(self) -> Resource | None:
        """What the call touches, by the tool's template; None if it has none or it cannot be filled in."""
        template, schema = self.tool.resource, self.tool.input_schema
        return None if template is None else resource_of(template, self.arguments, schema=schema, user=self.user)

    @property
    def resource(self) -> str | None:
        """The name of what the call touches."""
        touched = self.touched
        return touched.text if touched else None


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
    untold: str = ""
    """For an uncertain decision: what could not be told, in words."""


@dataclass(frozen=True)
class Criterion:
    """One part of a rule, held against a call."""

    kind: Literal["role", "agent", "tool", "effect", "resource", "when"]
    verdict: Verdict
    argument: str = ""
    """For `when`: the argument's path."""

    def __str__(self) -> str:
        return f"the argument {self.argument!r}" if self.argument else f"the {self.kind}"


def decide(policy: Policy | None, call: CallFacts) -> PolicyDecision:
    """Judge a call.

    Args:
        policy: None: the tools' own declarations are all there is.
        call: The tool, its arguments, and who asks.
    """
    touched = call.touched
    resource = touched.text if touched else None
    default_approval = policy.approval if policy else ApprovalRequirement()
    decided = PolicyDecision(*_default(policy, call.tool), approval=default_approval, resource=resource)
    # Read backwards, what is decided so far is what the rules behind this one say.
    for name, rule in reversed(policy.named_rules if policy else ()):
        verdict, untold = _judge(rule, call, touched)
        if verdict is False:
            continue
        found = PolicyDecision(rule.permission, name, approval=rule.approval or default_approval, resource=resource)
        decided = found if verdict else _narrower(replace(found, uncertain=True, untold=untold), decided)
    return _never_below_the_tool(decided, call.tool, default_approval)


def denial(decision: PolicyDecision) -> str:
    """Say to the model why its call does not run."""
    why = f"Denied by the policy ({decision.rule})."
    if not decision.uncertain:
        return why
    return f"{why} It cannot be told for sure what {decision.untold} is; give it, and write it plainly."


def criteria(rule: Rule, call: CallFacts, touched: Resource | None) -> Iterator[Criterion]:
    """Yield how a call meets each part of a rule; all must be met for the rule to match."""
    everyone = ANY in rule.role or ANY in call.roles
    yield Criterion("role", everyone or any(matches_any_name(rule.role, role) for role in call.roles))
    yield Criterion("agent", matches_any_name(rule.agent, call.agent))
    yield Criterion("tool", matches_any_name(rule.tool, call.tool.name))
    yield Criterion("effect", not rule.effect or call.tool.effect in rule.effect)
    yield Criterion("resource", _resource_matches(rule, call, touched))
    for path, check in rule.when.items():
        argument = find_argument(call.arguments, path, schema=call.tool.input_schema)
        yield Criterion("when", check.holds(argument), argument=path)


def _judge(rule: Rule, call: CallFacts, touched: Resource | None) -> tuple[Verdict, str]:
    """Return whether a rule matches; and if that cannot be told, why."""
    seen: list[Criterion] = []
    for criterion in criteria(rule, call, touched):
        if criterion.verdict is False:
            return False, ""
        seen.append(criterion)
    return every(one.verdict for one in seen), " and ".join(str(one) for one in seen if one.verdict is None)


def _resource_matches(rule: Rule, call: CallFacts, touched: Resource | None) -> Verdict:
    if rule.resource is None or ANY in rule.resource:
        return True
    if call.tool.resource is None:
        return False
    if touched is None:
        return None
    meant = (own_resource(one, call.user) if one.startswith(OWN) else one for one in rule.resource)
    patterns = [pattern for pattern in meant if pattern is not None]
    verdict = some(matches_text(pattern, touched.text) for pattern in patterns)
    return None if verdict is False and patterns and not touched.sure else verdict


def _narrower(uncertain: PolicyDecision, otherwise: PolicyDecision) -> PolicyDecision:
    """Return what permits less: a rule that may match, or what holds if it does not."""
    if uncertain.permission is not otherwise.permission:
        return max(uncertain, otherwise, key=lambda decision: decision.permission.severity)
    if uncertain.permission is not Permission.ASK or otherwise.approval.covers(uncertain.approval):
        return otherwise
    if uncertain.approval.covers(otherwise.approval):
        return uncertain
    # Neither approval stands in for the other, so that no answer would be the right one.
    return replace(uncertain, permission=Permission.DENY)


def _default(policy: Policy | None, tool: ToolSpec) -> tuple[Permission, str]:
    """Return what holds for a call that no rule matches, and what that is called."""
    if policy is not None and policy.strict:
        return Permission.DENY, f"{_DEFAULT}strict, and no rule names the call"
    if policy is not None and tool.effect is Effect.ONCE:
        return Permission.DENY, f"{_DEFAULT}no rule names the call of a 'once' tool"
    return Permission(tool.approval.value), f"{_DEFAULT}the tool's own declaration"


def _never_below_the_tool(
    decided: PolicyDecision, tool: ToolSpec, default_approval: ApprovalRequirement
) -> PolicyDecision:
    if decided.permission is not Permission.ALLOW or not tool.asks_always or tool.approval is not Approval.ASK:
        return decided
    return PolicyDecision(Permission.ASK, TOOL_ASKS, approval=default_approval, resource=decided.resource)
