"""Whether a policy fits the app that it governs: a rule that can never match as it says is found at start-up.

A misspelt name in a denial would otherwise be found on the day that it should have denied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from perdure.agent import AgentSpec
from perdure.argument import ArgumentType, argument_names, argument_type
from perdure.condition import ArgumentCheck
from perdure.document import did_you_mean
from perdure.glob import is_pattern, matches_any_name, matches_name
from perdure.policy import Permission, Policy, Rule
from perdure.policy_file import GoverningPolicy
from perdure.principal import ANY
from perdure.resource import OWN, kind_of
from perdure.tool import Approval, Effect, ToolSpec

_SHARED = "; if the file is for other apps too, say so with shared: true"


@dataclass(frozen=True)
class Misfit:
    """Something in a policy that does not go with the app."""

    message: str
    fatal: bool
    """It stops the process; otherwise it is logged."""
    rule: int | None = None
    """Which rule, counted from 0; None: what is missing is a rule."""
    parts: tuple[str | int, ...] = ()
    """Where in the rule."""


def checked_fit(
    governing: GoverningPolicy, *, agents: Sequence[AgentSpec], tools: Sequence[ToolSpec]
) -> tuple[str, ...]:
    """Return what is odd about a policy for an app.

    Raises:
        PolicyError: A rule can never match as it says; names the first.
    """
    remarks = []
    names = [name for name, _ in governing.policy.named_rules]
    for misfit in misfits(governing.policy, agents=agents, tools=tools):
        if misfit.rule is None:
            remarks.append(misfit.message)
            continue
        error = governing.error(f"rule {names[misfit.rule]!r}: {misfit.message}", rule=misfit.rule, parts=misfit.parts)
        if misfit.fatal:
            raise error
        remarks.append(str(error))
    return tuple(remarks)


def misfits(policy: Policy, *, agents: Sequence[AgentSpec], tools: Sequence[ToolSpec]) -> Iterator[Misfit]:
    """Yield what does not fit, in the rules' order.

    Args:
        policy: The policy.
        agents: The app's agents.
        tools: The app's tools.
    """
    for place, (_, rule) in enumerate(policy.named_rules):
        for misfit in (*_rule_misfits(rule, agents, tools), *_hidden(policy, place)):
            fatal = misfit.fatal and not policy.shared
            hint = "" if policy.shared or not misfit.fatal else _SHARED
            yield Misfit(f"{misfit.message}{hint}", fatal=fatal, rule=place, parts=misfit.parts)
    used = {tool.name for agent in agents for tool in agent.tools}
    yield from _unnamed(policy, [tool for tool in tools if tool.name in used])


def _rule_misfits(rule: Rule, agents: Sequence[AgentSpec], tools: Sequence[ToolSpec]) -> Iterator[Misfit]:
    """Yield what makes a rule unable to match, the first of such kinds alone; or else what is odd about it."""
    unknown = [
        *_unmatched("agent", rule.agent, [agent.name for agent in agents]),
        *_unmatched("tool", rule.tool, [tool.name for tool in tools]),
    ]
    if unknown:
        yield from unknown
        return
    if "effect" in rule.model_fields_set and not rule.effect:
        yield Misfit(
            "has no effect in its list, and would be for every tool; leave it out", fatal=True, parts=("effect",)
        )
        return
    named = _named(rule, agents, tools)
    if not named:
        effects = f" of the effect {' or '.join(rule.effect)}" if rule.effect else ""
        yield Misfit(f"no tool{effects} that it names belongs to an agent that it names", fatal=True)
        return
    yield from _resource_misfits(rule, named)
    for path, check in rule.when.items():
        yield from _argument_misfits(path, check, named)
    if rule.permission is Permission.ALLOW and all(_asks_always(tool) for tool in named):
        asking = ", ".join(tool.name for tool in named)
        yield Misfit(f"allows what it cannot: {asking} asks a human always, by approval='ask'", fatal=False)


def _unmatched(what: str, patterns: Sequence[str], names: Sequence[str]) -> Iterator[Misfit]:
    known = sorted(set(names))
    for index, pattern in enumerate(patterns):
        if pattern != ANY and not any(matches_name(pattern, name) for name in known):
            yield Misfit(
                f"no {what} of this app matches {pattern!r}{did_you_mean(pattern, known)}; it has: "
                f"{', '.join(known) or 'none'}",
                fatal=True,
                parts=(what, index),
            )


def _named(rule: Rule, agents: Sequence[AgentSpec], tools: Sequence[ToolSpec]) -> list[ToolSpec]:
    """Return the tools that a rule is about."""
    if ANY not in rule.agent:
        matched = [agent for agent in agents if matches_any_name(rule.agent, agent.name)]
        tools = list({tool.name: tool for agent in matched for tool in agent.tools}.values())
    return [
        tool
        for tool in tools
        if matches_any_name(rule.tool, tool.name) and (not rule.effect or tool.effect in rule.effect)
    ]


def _resource_misfits(rule: Rule, named: Sequence[ToolSpec]) -> Iterator[Misfit]:
    if rule.resource is None or ANY in rule.resource:
        return
    kinds = sorted({kind_of(tool.resource) for tool in named if tool.resource})
    if not kinds:
        tools = ", ".join(tool.name for tool in named)
        yield Misfit(
            f"names a resource, but {tools} declares none; write resource='order:{{order_id}}' in @app.tool",
            fatal=True,
            parts=("resource",),
        )
        return
    for index, pattern in enumerate(rule.resource):
        kind = pattern.removeprefix(OWN).partition("/" if pattern.startswith(OWN) else ":")[0]
        if not any(matches_name(kind, one) for one in kinds):
            yield Misfit(
                f"no tool that it names touches a resource as {pattern!r}{did_you_mean(kind, kinds)}; kinds are: "
                f"{', '.join(kinds)}",
                fatal=True,
                parts=("resource", index),
            )
    without = [tool.name for tool in named if tool.resource is None and not _by_pattern(rule, tool)]
    if without:
        yield Misfit(f"never matches {', '.join(without)}, which declares no resource", fatal=True, parts=("resource",))


def _by_pattern(rule: Rule, tool: ToolSpec) -> bool:
    """Whether a rule names a tool only as one of many."""
    return tool.name not in rule.tool


def _argument_misfits(path: str, check: ArgumentCheck, named: Sequence[ToolSpec]) -> Iterator[Misfit]:
    kinds = [(tool, argument_type(tool.input_schema, path)) for tool in named]
    taking = [(tool, kind) for tool, kind in kinds if kind.taken is not False]
    if not taking:
        known = sorted({name for tool in named for name in argument_names(tool.input_schema)})
        yield Misfit(
            f"no tool that it names takes an argument {path!r}{did_you_mean(path, known)}; arguments are: "
            f"{', '.join(known) or 'none'}",
            fatal=True,
            parts=("when", path),
        )
        return
    problems = [(tool, problem) for tool, kind in taking if (problem := _type_problem(check, kind))]
    for tool, problem in problems:
        yield Misfit(f"{path!r} of {tool.name} {problem}", fatal=len(problems) == len(taking), parts=("when", path))
    for tool, kind in taking:
        if kind.text_format and kind.text_format != "uuid" and (check.values or check.glob is not None):
            yield Misfit(
                f"{path!r} of {tool.name} is a {kind.text_format}, which can be written in several ways: one that is "
                "written in another way than here leaves the rule in doubt",
                fatal=False,
                parts=("when", path),
            )


def _type_problem(check: ArgumentCheck, kind: ArgumentType) -> str | None:
    """Say why a check never passes for sure; None if it may."""
    if not kind.types or not (check.bounds or check.values or check.glob is not None):
        return None
    taken = " or ".join(sorted(kind.types))
    if kind.types <= {"array", "object"}:
        return f"is of type {taken}; a rule compares single values"
    if check.bounds and not kind.types & {"number", "integer"}:
        return f"is of type {taken} and not compared as a number; declare it as int, float or Decimal"
    if check.glob is not None and "string" not in kind.types:
        return f"is of type {taken}; glob is for texts"
    for value in check.values:
        if not _may_equal(value, kind):
            return f"is of type {taken}, and never {value!r}" if kind.choices is None else f"is one of {kind.choices}"
    return None


def _may_equal(value: object, kind: ArgumentType) -> bool:
    match value:
        case bool():
            return "boolean" in kind.types
        case str():
            return "string" in kind.types and (kind.choices is None or value in kind.choices)
    return bool(kind.types & {"number", "integer"})


def _hidden(policy: Policy, place: int) -> Iterator[Misfit]:
    """Yield that a rule is never reached, as an earlier one matches all that it would."""
    named = policy.named_rules
    rule = named[place][1]
    earlier = next((name for name, one in named[:place] if _matches_all_of(one, rule)), None)
    if earlier is not None:
        yield Misfit(f"is never reached: {earlier!r} before it matches all that it would", fatal=False)


def _matches_all_of(one: Rule, other: Rule) -> bool:
    patterns = ((one.role, other.role), (one.agent, other.agent), (one.tool, other.tool))
    return (
        all(ANY in mine or set(theirs) <= set(mine) for mine, theirs in patterns)
        and (not one.effect or set(other.effect or Effect) <= set(one.effect))
        and (one.resource is None or ANY in one.resource or set(other.resource or (ANY,)) <= set(one.resource))
        and all(other.when.get(path) == check for path, check in one.when.items())
    )


def _unnamed(policy: Policy, tools: Sequence[ToolSpec]) -> Iterator[Misfit]:
    """Yield tools of which the policy says less than one may think."""
    for tool in tools:
        about = [rule for rule in policy.rules if _named(rule, (), [tool]) or ANY not in rule.agent]
        if (policy.strict or tool.effect is Effect.ONCE) and all(rule.permission is Permission.DENY for rule in about):
            yield Misfit(f"no rule lets {tool.name} run: every call of it is denied", fatal=False)
        by_name = [rule for rule in about if any(not is_pattern(one) and one == tool.name for one in rule.tool)]
        allowed_anyway = not policy.strict and tool.effect is not Effect.ONCE and tool.approval is Approval.ALLOW
        if by_name and allowed_anyway and all(rule.permission is Permission.ALLOW for rule in about):
            yield Misfit(
                f"{tool.name} runs whether a rule allows it or not, by its own declaration: deny what is not to run, "
                "or set strict: true",
                fatal=False,
            )


def _asks_always(tool: ToolSpec) -> bool:
    return tool.asks_always and tool.approval is Approval.ASK
