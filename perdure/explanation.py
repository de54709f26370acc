"""Why a policy decides as it does, in words: which rule, and what kept each rule before it from matching."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

from perdure.approval import ApprovalRequirement
from perdure.argument import find_argument
from perdure.duration import written
from perdure.messages import Frozen
from perdure.policy import CallFacts, Criterion, Permission, Rule, criteria, decide
from perdure.policy_file import GoverningPolicy
from perdure.reading import Verdict, every

_MAX_SHOWN = 80


class RuleExplanation(Frozen):
    """What became of one rule."""

    rule: str
    line: int | None = None
    permission: Permission
    matches: Verdict
    """None: it cannot be told, so that it counts only if it permits less."""
    because: tuple[str, ...] = ()
    """What does not match, or what cannot be told."""


class Explanation(Frozen):
    """A policy's decision, and how it came about."""

    permission: Permission
    rule: str
    line: int | None = None
    uncertain: bool = False
    resource: str | None = None
    approval: ApprovalRequirement | None = None
    """For `ask`."""
    rules: tuple[RuleExplanation, ...] = ()
    """The rules up to the first that matches for sure; what stands behind it has no say."""


def explain_decision(governing: GoverningPolicy | None, call: CallFacts) -> Explanation:
    """Explain what a policy says of a call; without a policy, what the tool's declaration says."""
    policy = governing.policy if governing else None
    decision = decide(policy, call)
    rules: list[RuleExplanation] = []
    for place, (name, rule) in enumerate(policy.named_rules if policy else ()):
        met = list(criteria(rule, call, call.touched))
        matches = every(one.verdict for one in met)
        rules.append(
            RuleExplanation(
                rule=name,
                line=governing.line_of(place) if governing else None,
                permission=rule.permission,
                matches=matches,
                because=tuple(_words(one, rule, call) for one in met if one.verdict is matches and matches is not True),
            )
        )
        if matches:
            break
    return Explanation(
        permission=decision.permission,
        rule=decision.rule,
        line=next((one.line for one in rules if one.rule == decision.rule), None),
        uncertain=decision.uncertain,
        resource=decision.resource,
        approval=decision.approval if decision.permission is Permission.ASK else None,
        rules=tuple(rules),
    )


def describe_requirement(requirement: ApprovalRequirement) -> str:
    """Say who must approve, and what happens if nobody does."""
    return ", then ".join(_level(level) for level in requirement.levels)


def _level(requirement: ApprovalRequirement) -> str:
    who = f"with the role {' or '.join(requirement.approvers)}" if requirement.approvers else "who may decide"
    parts = [f"{requirement.quorum} {who}" if requirement.quorum > 1 else f"one {who}"]
    if requirement.separation_of_duties:
        parts.append("not who asked")
    if requirement.deadline is not None:
        parts.append(f"within {written(requirement.deadline)}, or else {requirement.on_deadline}")
    return ", ".join(parts)


def _words(criterion: Criterion, rule: Rule, call: CallFacts) -> str:
    match criterion.kind:
        case "role":
            return f"role: the caller holds {_listed(call.roles)}, and it is for {_listed(rule.role)}"
        case "agent":
            return f"agent: {call.agent} is none of {_listed(rule.agent)}"
        case "tool":
            return f"tool: {call.tool.name} is none of {_listed(rule.tool)}"
        case "effect":
            return f"effect: {call.tool.name} is {call.tool.effect}, and it is for {_listed(rule.effect)}"
        case "resource":
            return f"resource: {_resource_words(criterion.verdict, rule, call)}"
    return f"when: {_argument_words(criterion, rule, call)}"


def _resource_words(verdict: Verdict, rule: Rule, call: CallFacts) -> str:
    wanted = _listed(rule.resource or ())
    if call.tool.resource is None:
        return f"{call.tool.name} declares none, and it is for {wanted}"
    if call.resource is None:
        return f"{call.tool.resource!r} cannot be filled in for sure, and it is for {wanted}"
    return f"{call.resource} {'may be' if verdict is None else 'is'} {'one' if verdict is None else 'none'} of {wanted}"


def _argument_words(criterion: Criterion, rule: Rule, call: CallFacts) -> str:
    path = criterion.argument
    argument = find_argument(call.arguments, path, schema=call.tool.input_schema)
    check = ", ".join(f"{key} {_shown(value)}" for key, value in rule.when[path].model_dump().items())
    if argument.value is not None:
        given = f"is {_shown(argument.value)}"
    elif argument.given is False and argument.type.taken is False:
        given = f"is no argument of {call.tool.name}"
    else:
        given = "is not given" if argument.given is False else "is null, or something else is in its place"
    told = "it cannot be told whether it passes" if criterion.verdict is None else "it does not pass"
    return f"argument {path!r} {given}; {told}: {check}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _shown(value: Any) -> str:
    text = str(value) if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def lines_of(explanation: Explanation) -> Iterator[str]:
    """Yield an explanation as lines for people, the decision first."""
    line = f", line {explanation.line}" if explanation.line else ""
    doubt = ", as it may match" if explanation.uncertain else ""
    yield f"{explanation.permission} by {explanation.rule!r}{line}{doubt}"
    if explanation.approval is not None:
        yield f"approval: {describe_requirement(explanation.approval)}"
    if explanation.resource is not None:
        yield f"resource: {explanation.resource}"
    for rule in explanation.rules:
        verdict = {True: "matches", False: "does not match", None: "may match"}[rule.matches]
        line = f"line {rule.line}, " if rule.line else ""
        yield f"{rule.rule!r} ({line}{rule.permission}) {verdict}"
        yield from (f"  {why}" for why in rule.because)
