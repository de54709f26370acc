"""What holds of every policy and every call: doubt never widens, and what a rule says is what its tool then reads."""

from __future__ import annotations

import itertools
import unicodedata
from dataclasses import replace
from datetime import date
from decimal import Decimal
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal
from uuid import UUID

from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, StringConstraints, ValidationError

from perdure import App
from perdure.approval import ApprovalRequirement
from perdure.argument import Argument, find_argument
from perdure.condition import ArgumentCheck
from perdure.messages import JsonObject
from perdure.policy import CallFacts, Permission, Policy, PolicyDecision, Rule, criteria, decide
from perdure.principal import ANY
from perdure.reading import Verdict, every
from perdure.resource import escaped
from perdure.schema import by_parameter, read_arguments
from perdure.tool import Approval, Effect, Tool, ToolSpec


class Size(StrEnum):
    """A parameter of few values."""

    SMALL = "small"
    LARGE = "Large"


class Customer(BaseModel):
    """A parameter with fields of its own."""

    country: str = ""
    age: int = 0


NOBODY = UUID(int=0)
app = App()


@app.tool(effect="once", approval="allow", resource="order:{order_id}/{count}")
def pay(
    order_id: str = "",
    amount: Decimal = Decimal(0),
    ratio: float = 0.0,
    count: int = 0,
    code: Annotated[str, StringConstraints(strip_whitespace=True, to_upper=True)] = "",
    kind: Literal["EUR", "USD"] = "EUR",
    size: Size = Size.SMALL,
    document: UUID = NOBODY,
    day: date = date.min,
    forced: bool = False,
    limit: int | None = 10,
    customer: Customer | None = None,
) -> str:
    """Take one parameter of each kind."""
    return ""


def registered(name: str) -> Tool:
    """Return a tool of the app."""
    tool = app.find_tool(name)
    assert tool is not None
    return tool


PAY = registered("pay")
DOCUMENT = "550e8400-e29b-41d4-a716-446655440000"
WANTED: tuple[Any, ...] = (
    *("EUR", "usd", "small", "Large", "A-1", "5", "05", "DE", DOCUMENT, "straße", "/data/x", "2026-01-02"),
    *(0, 1, 5, 100, -5, 5.5, 0.1, 1e22, True, False),
)
"""What rules compare to; arguments are these, and what looks like them."""


def _disguised(text: str) -> list[str]:
    """Return what a model may write in a text's place: what some tool, somewhere, reads as the same."""
    return [
        *(text, text.upper(), text.lower(), f" {text}", f"{text}\n", f"{text}\u00a0", f"{text}\u200b", f"\t{text} "),
        *(f"0{text}", f"+{text}", f"{text}.0", f"{text}.", f"{text}e0", f"{text}_0", f"{text}0000000000000000000001"),
        *(f"{text}.00000000000000000001", text.replace("-", ""), f"{{{text}}}", f"urn:uuid:{text}", f"../{text}"),
        *(f"{text}T00:00:00", f"{text}T00:00:00Z"),
        *(unicodedata.normalize("NFD", text), text.replace("S", "\u017f"), text.replace("i", "\u0131"), f"{text}/../x"),
        *("".join(chr(ord(one) + 0xFEE0) if "!" <= one <= "~" else one for one in text), text.replace("/", "//")),
        *(f"{text}*", text[:-1], text + text[-1:], "NaN", "Infinity", "1,000", "1.000", "0x5", "null", ""),
    ]


def _disguises(value: Any) -> list[Any]:
    texts = _disguised(str(value))
    numbers = [value + 1e-17, value * -1, float(value), str(value)] if isinstance(value, int | float) else []
    return [value, *texts, *numbers, None, [], [value], {"eq": value}, not value]


values = st.one_of(
    st.sampled_from(WANTED).flatmap(lambda value: st.sampled_from(_disguises(value))),
    st.integers(-200, 200),
    st.floats(allow_nan=False, allow_infinity=False),
    st.decimals(-1000, 1000, places=3).map(str),
    st.text("aA5 -/.*?:%é", max_size=6),
    st.booleans(),
)
parameters = st.sampled_from(sorted(set(PAY.spec.input_schema["properties"]) - {"customer"}))
arguments: st.SearchStrategy[JsonObject] = st.dictionaries(parameters, values, max_size=4) | st.fixed_dictionaries(
    {"customer": st.dictionaries(st.sampled_from(("country", "age", "Country")), values)}
)
patterns = st.sampled_from(
    ("*", "5", "?", "A-*", "a-?", "[A-Z]*", "*USD*", "/data/*", "eur", "*0*", "550e*", "*x", "2026-*", "?UR")
)
scalars = st.sampled_from(WANTED)
numbers = st.sampled_from((0, 5, 100, Decimal("5.5"), -5, Decimal("0.1")))
checks = st.fixed_dictionaries(
    {},
    optional={
        "eq": scalars,
        "ne": scalars,
        "lt": numbers,
        "le": numbers,
        "gt": numbers,
        "ge": numbers,
        "in": st.lists(scalars, min_size=1, max_size=3),
        "not_in": st.lists(scalars, min_size=1, max_size=3),
        "glob": patterns,
        "present": st.booleans(),
    },
).filter(bool)
paths = parameters | st.sampled_from(("customer.country", "customer.age", "nothing"))
roles = st.sampled_from(("clerk", "manager", "lead-eu"))
requirements = st.fixed_dictionaries(
    {
        "approvers": st.lists(roles, max_size=2, unique=True),
        "quorum": st.integers(1, 3),
        "separation_of_duties": st.booleans(),
    }
) | st.builds(
    lambda quorum: {
        "quorum": quorum,
        "deadline": "4h",
        "on_deadline": "escalate",
        "escalate_to": {"approvers": ["manager"]},
    },
    st.integers(1, 3),
)


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    """Draw a rule, of which most parts are left out as in a real one."""
    permission = draw(st.sampled_from(Permission))
    parts = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "role": roles | st.just("lead-*"),
                "agent": st.sampled_from(("desk", "d*", "other")),
                "tool": st.sampled_from(("pay", "p*", "other", ["other", "pay"])),
                "effect": st.sampled_from(("once", "read", ["read", "once"])),
                "resource": st.sampled_from(("order:*", "order:A-1/*", "order:a-1/5", "own:order/*", "mailbox:*")),
                "when": st.dictionaries(paths, checks, min_size=1, max_size=2),
                **({"approval": requirements} if permission is Permission.ASK else {}),
            },
        )
    )
    return Rule.model_validate({**parts, "permission": permission})


policies = st.builds(
    lambda strict, found, approval: Policy.model_validate({"strict": strict, "rules": found, "approval": approval}),
    st.booleans(),
    st.lists(rules(), max_size=5),
    requirements,
)
specs = st.builds(
    lambda effect, approval, asks, template: PAY.spec.model_copy(
        update={"effect": effect, "approval": approval, "asks_always": asks, "resource": template}
    ),
    st.sampled_from(Effect),
    st.sampled_from(Approval),
    st.booleans(),
    st.sampled_from((PAY.spec.resource, "own:order/{order_id}", None)),
)
calls = st.builds(
    lambda spec, given_, held, user: CallFacts(tool=spec, arguments=given_, agent="desk", roles=tuple(held), user=user),
    specs,
    arguments,
    st.lists(roles | st.just(ANY), max_size=2),
    st.sampled_from(("ann", "A-1", None, "")),
)


def permits_no_more(one: PolicyDecision, other: PolicyDecision) -> bool:
    """Whether whatever the first lets happen, the second would have."""
    if one.permission is not other.permission:
        return one.permission.severity > other.permission.severity
    return one.permission is not Permission.ASK or one.approval.covers(other.approval)


def verdict_of(rule: Rule, call: CallFacts) -> Verdict:
    """Return whether a rule matches, with nothing left out."""
    return every([criterion.verdict for criterion in criteria(rule, call, call.touched)])


def first_match(policy: Policy, call: CallFacts, matching: tuple[bool, ...]) -> PolicyDecision:
    """Decide by the plain rule, given which rules match: the first that does, else the default; the tool may ask."""
    found = next((rule for rule, matches in zip(policy.rules, matching, strict=True) if matches), None)
    if found is not None:
        permission, approval = found.permission, found.approval or policy.approval
    elif policy.strict or call.tool.effect is Effect.ONCE:
        permission, approval = Permission.DENY, policy.approval
    else:
        permission, approval = Permission(call.tool.approval), policy.approval
    if permission is Permission.ALLOW and call.tool.asks_always and call.tool.approval is Approval.ASK:
        permission, approval = Permission.ASK, policy.approval
    return PolicyDecision(permission, rule="", approval=approval)


@given(policies, calls)
def test_a_decision_is_the_narrowest_of_all_that_might_be_meant(policy: Policy, call: CallFacts) -> None:
    """Whatever the rules that cannot be told turn out to say, what is decided permits no more."""
    verdicts = [verdict_of(rule, call) for rule in policy.rules]
    worlds = list(itertools.product(*((True, False) if verdict is None else (verdict,) for verdict in verdicts)))

    decided = decide(policy, call)

    meant = [first_match(policy, call, world) for world in worlds]
    assert all(permits_no_more(decided, other) for other in meant)
    if len(worlds) == 1:
        assert (decided.permission, decided.approval) == (meant[0].permission, meant[0].approval)
        assert not decided.uncertain
    elif not decided.uncertain:
        assert any(permits_no_more(other, decided) for other in meant)


@given(policies, calls)
def test_what_is_decided_names_what_decided(policy: Policy, call: CallFacts) -> None:
    """The rule of a decision is one of the policy's, and says what was decided; or it is a default, and says so."""
    decided = decide(policy, call)

    named = dict(policy.named_rules)
    if decided.rule in named:
        rule = named[decided.rule]
        both_ask = decided.uncertain and decided.permission is Permission.DENY and rule.permission is Permission.ASK
        assert rule.permission is decided.permission or both_ask
        assert verdict_of(rule, call) is (None if decided.uncertain else True)
    else:
        assert decided.rule.startswith("default: ") or decided.rule == "the tool asks always"
        assert not decided.uncertain


@given(policies, calls, rules())
def test_a_denial_in_front_never_widens(policy: Policy, call: CallFacts, rule: Rule) -> None:
    """Whatever the new rule is about, what is permitted with it was permitted without it."""
    denial = rule.model_copy(update={"permission": Permission.DENY, "approval": None})

    narrowed = decide(policy.model_copy(update={"rules": (denial, *policy.rules)}), call)

    assert permits_no_more(narrowed, decide(policy, call))


@given(policies, calls)
def test_a_strict_policy_permits_no_more(policy: Policy, call: CallFacts) -> None:
    """`strict` takes away, and gives nothing."""
    strict = decide(policy.model_copy(update={"strict": True}), call)

    assert permits_no_more(strict, decide(policy.model_copy(update={"strict": False}), call))


@given(policies, calls)
def test_a_policy_decides_the_same_after_its_way_through_history(policy: Policy, call: CallFacts) -> None:
    """Pinned as JSON, read again and pinned once more, it is equal and decides the same."""
    pinned = policy.model_dump_json()

    again = Policy.model_validate_json(pinned)

    assert again == policy
    assert again.model_dump_json() == pinned
    assert decide(again, call) == decide(policy, call)


@given(arguments, calls)
def test_no_argument_changes_the_kind_of_a_resource(given_: JsonObject, call: CallFacts) -> None:
    """Whatever a model writes, the resource is of the template's kind, has its parts and no more."""
    touched = replace(call, arguments=given_).touched

    if touched is not None:
        kind, _, rest = touched.text.partition(":")
        assert kind == "order"
        assert ":" not in rest
        assert rest.count("/") == 1
        assert not set("*?[]") & set(rest)


def parsed(given_: JsonObject) -> dict[str, Any] | None:
    """Return what the tool reads from arguments; None if it refuses them."""
    try:
        return by_parameter(read_arguments(PAY, given_))
    except ValidationError:
        return None


def read_at(read: dict[str, Any], path: str) -> Any:
    """Return what the tool reads at a path."""
    value: Any = read
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else getattr(value, name, None)
    return value


def is_equal(value: Any, wanted: Any, *, written: Any) -> bool:
    """Compare what a model wrote, and what its tool reads from it, to what a rule says, as a person would."""
    if type(written) is type(wanted) and written == wanted:
        return True
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    if isinstance(value, str) and isinstance(wanted, int | float):
        return value == str(wanted)
    if isinstance(wanted, int | float):
        return Decimal(str(value)) == Decimal(str(wanted))
    return bool(str(value) == wanted)


def passes(check: ArgumentCheck, value: Any, argument: Argument) -> bool:
    """Say whether what a tool reads passes a check: no doubt is left by then."""
    written = argument.value
    number = Decimal(str(value)) if type(value) in (int, float, Decimal) else None
    tests = {
        "lt": lambda bound: number is not None and number < bound,
        "le": lambda bound: number is not None and number <= bound,
        "gt": lambda bound: number is not None and number > bound,
        "ge": lambda bound: number is not None and number >= bound,
    }
    seen = [tests[sign](bound) for sign, bound in check.bounds]
    if check.eq is not None:
        seen.append(is_equal(value, check.eq, written=written))
    if check.ne is not None:
        seen.append(not is_equal(value, check.ne, written=written))
    if check.one_of is not None:
        seen.append(any(is_equal(value, one, written=written) for one in check.one_of))
    if check.none_of is not None:
        seen.append(not any(is_equal(value, one, written=written) for one in check.none_of))
    if check.glob is not None:
        seen.append(any(fnmatchcase(str(one), check.glob) for one in (value, written)))
    if check.present is not None:
        seen.append((argument.given is True) is check.present)
    return all(seen)


@settings(max_examples=300)
@given(arguments, paths, checks)
@example({"count": "05"}, "count", {"eq": "5"})
@example({"amount": "1e2"}, "amount", {"le": 99})
@example({"ratio": "99.99999999999999999999"}, "ratio", {"ge": 100})
@example({"code": " eur"}, "code", {"glob": "?UR"})
@example({"day": "2026-01-02T00:00:00"}, "day", {"ne": "2026-01-02"})
def test_a_sure_verdict_is_true_of_what_the_tool_reads(given_: JsonObject, path: str, raw: dict[str, Any]) -> None:
    """Spaces, case, signs, digits of other scripts, null and floats: where a tool reads something else, it is told."""
    check = ArgumentCheck.model_validate(raw)
    argument = find_argument(given_, path, schema=PAY.spec.input_schema)
    verdict = check.holds(argument)
    read = parsed(given_)

    if read is not None and verdict is not None and path != "nothing":
        asks_presence_only = set(raw) == {"present"}
        if argument.given is not False or asks_presence_only:
            assert passes(check, read_at(read, path), argument) is verdict


@settings(max_examples=300)
@given(
    st.fixed_dictionaries({"order_id": values, "count": values}),
    st.sampled_from(("order:*", "order:A-1/*", "order:a-1/5", "order:*/5", "order:A-?/0*", "order:%2Fdata%2F*/5")),
)
@example({"order_id": "A-1", "count": "05"}, "order:*/5")
@example({"order_id": "/data/../x", "count": 5}, "order:%2Fdata%2F*/5")
def test_a_sure_resource_is_the_one_that_the_tool_reads(given_: JsonObject, pattern: str) -> None:
    """A rule on a resource matches, or does not, by what the tool takes its arguments for."""
    call = CallFacts(tool=PAY.spec, arguments=given_, agent="desk")
    rule = Rule(resource=(pattern,), permission=Permission.ALLOW)
    verdict, read = verdict_of(rule, call), parsed(given_)

    if read is not None and verdict is not None:
        resource = f"order:{escaped(read['order_id'])}/{read['count']}"
        assert fnmatchcase(resource, pattern) is verdict
        assert verdict is False or "%2F.." not in resource or pattern == "order:*"


@given(requirements, requirements)
def test_a_requirement_that_covers_another_is_met_by_no_one_else(one: JsonObject, other: JsonObject) -> None:
    """Whoever meets the stricter one would have met the other as well."""
    strict, weak = ApprovalRequirement.model_validate(one), ApprovalRequirement.model_validate(other)
    groups = [
        held
        for size in range(4)
        for held in itertools.combinations_with_replacement(("", "clerk", "manager", "lead-eu"), size)
    ]

    def met(requirement: ApprovalRequirement, held: tuple[str, ...], *, level: int) -> bool:
        asked = requirement.levels[level]
        return sum(not asked.approvers or role in asked.approvers for role in held) >= asked.quorum

    if strict.covers(weak) and strict != weak:
        for group in groups:
            for level in range(len(strict.levels)):
                assert not met(strict, group, level=level) or met(weak, group, level=0)


def test_a_tool_without_a_schema_is_judged_by_what_is_written() -> None:
    """Nothing is known of how it reads, so that no text is a number for sure."""
    spec = ToolSpec(name="pay", input_schema={})
    check = ArgumentCheck.model_validate({"le": 50})

    verdicts = [
        check.holds(find_argument({"amount": amount}, "amount", schema=spec.input_schema))
        for amount in (50, 51, "50", None)
    ]

    assert verdicts == [True, False, None, None]
