"""The policy as a pure function: first match wins, defaults deny what is dangerous, and doubt never widens."""

from __future__ import annotations

import time
from typing import Any

import pytest
from pydantic import ValidationError

from perdure.approval import ApprovalRequirement
from perdure.policy import CallFacts, Permission, Policy, decide
from perdure.resource import kind_of, template_fields
from perdure.tool import Approval, Effect, ToolSpec


def tool(name: str = "refund", *, effect: Effect = Effect.READ, **fields: Any) -> ToolSpec:
    """Return a tool."""
    return ToolSpec(name=name, input_schema={}, effect=effect, **fields)


def call(spec: ToolSpec | None = None, **fields: Any) -> CallFacts:
    """Return a call of an agent named `desk`."""
    arguments = fields.pop("arguments", {})
    return CallFacts(tool=spec or tool(), arguments=arguments, agent="desk", **fields)


def policy(*rules: dict[str, Any], **fields: Any) -> Policy:
    """Return a policy."""
    return Policy.model_validate({"rules": rules, **fields})


def test_the_first_rule_that_matches_decides() -> None:
    """Order is all: a later rule says nothing where an earlier one matched."""
    rules = policy(
        {"tool": "refund", "when": {"amount": {"le": 50}}, "permission": "allow", "name": "small"},
        {"tool": "re*", "permission": "ask"},
        {"permission": "deny"},
    )

    assert decide(rules, call(arguments={"amount": 50})).rule == "small"
    assert decide(rules, call(arguments={"amount": "50.01"})).rule == "rule 2"
    assert decide(rules, call(tool("other"))).permission is Permission.DENY


@pytest.mark.parametrize(
    ("strict", "effect", "approval", "expected"),
    [
        (False, Effect.READ, Approval.ALLOW, Permission.ALLOW),
        (False, Effect.READ, Approval.ASK, Permission.ASK),
        (False, Effect.ONCE, Approval.ASK, Permission.DENY),
        (True, Effect.READ, Approval.ALLOW, Permission.DENY),
    ],
)
def test_what_no_rule_names_is_denied_where_it_could_harm(
    strict: bool, effect: Effect, approval: Approval, expected: Permission
) -> None:
    """A `once` tool always, and every tool under a strict policy; other tools go by their declaration."""
    decision = decide(policy(strict=strict), call(tool(effect=effect, approval=approval)))

    assert decision.permission is expected
    assert decision.rule.startswith("default: ")


def test_without_a_policy_the_tools_declaration_is_all_there_is() -> None:
    """A `once` tool asks, as its author left it."""
    spec = tool(effect=Effect.ONCE, approval=Approval.ASK)

    assert decide(None, call(spec)).permission is Permission.ASK


def test_no_policy_lets_a_tool_run_that_asks_always() -> None:
    """An author's `ask` is a floor, not a default."""
    spec = tool(effect=Effect.ONCE, approval=Approval.ASK, asks_always=True)

    decision = decide(policy({"permission": "allow"}), call(spec))

    assert (decision.permission, decision.rule) == (Permission.ASK, "the tool asks always")


@pytest.mark.parametrize("amount", [None, [], {}, True, "a lot", "NaN", "12x"])
def test_an_argument_that_cannot_be_compared_never_passes_a_denial(amount: Any) -> None:
    """A rule that denies large amounts also stops amounts of which nobody can say how large they are."""
    rules = policy({"when": {"amount": {"gt": 100}}, "permission": "deny"}, {"permission": "allow"})

    decision = decide(rules, call(arguments={"amount": amount}))

    assert (decision.permission, decision.uncertain) == (Permission.DENY, True)


@pytest.mark.parametrize("currency", [" USD", "usd", "U\u200aSD", "\uff35SD"])
def test_a_text_that_its_tool_may_read_otherwise_never_passes_a_denial(currency: str) -> None:
    """Spaces, case and lookalikes leave it untold whether a text is the denied one."""
    rules = policy({"when": {"currency": "USD"}, "permission": "deny"}, {"permission": "allow"})

    assert decide(rules, call(arguments={"currency": currency})).permission is Permission.DENY
    assert decide(rules, call(arguments={"currency": "EUR"})).permission is Permission.ALLOW


def test_an_argument_stays_within_its_place_in_a_resource() -> None:
    """What a model puts into one argument cannot pass for another owner's resource."""
    spec = tool(resource="repo:{owner}/{name}")
    rules = policy({"resource": "repo:acme/*", "permission": "allow"}, strict=True)

    assert decide(rules, call(spec, arguments={"owner": "acme", "name": "site"})).permission is Permission.ALLOW
    for owner in ("acme/evil", "acme%2Fevil", "a*", "ACME/x", "other"):
        arguments = {"owner": owner, "name": "site"}
        assert decide(rules, call(spec, arguments=arguments)).permission is Permission.DENY, owner


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{kind}:{id}", "begin with a kind"),
        ("own:{kind}", "begin with a kind"),
        ("", "begin with a kind"),
        ("order {id}", "letters, digits"),
        ("order:*", "letters, digits"),
        ("order:{a}{b}", "between two arguments"),
        ("order:{a}-{b}", "between two arguments"),
        ("order:{a!r}", "names of arguments"),
        ("order:{}", "names of arguments"),
        ("order:{a", "expected"),
    ],
)
def test_a_template_leaves_nothing_to_its_arguments_but_their_places(template: str, says: str) -> None:
    """An argument can neither be the kind, nor run into the next one."""
    with pytest.raises(ValueError, match=says):
        template_fields(template)


def test_only_the_template_makes_a_resource_somebodys_own() -> None:
    """An argument `own` names whatever it names in its place, and not what is the user's."""
    spec = tool(resource="doc:{owner}/{name}")

    facts = call(spec, arguments={"owner": "own:mailbox", "name": "x"}, user="ann")

    assert facts.resource == "doc:own%3Amailbox/x"
    assert kind_of("own:mailbox/{folder}") == "mailbox"


@pytest.mark.parametrize("number", ["01042", "+1042", "1_042", "1042.0", " 1042", "1.042e3", True, 1042.0, 10**200])
def test_a_number_in_a_resource_is_written_in_one_way(number: Any) -> None:
    """What a tool reads as 1042 does not pass a rule about 1042 as something else."""
    schema = {"properties": {"id": {"type": "integer"}}, "additionalProperties": False}
    spec = ToolSpec(name="close", input_schema=schema, resource="account:{id}")
    rules = policy({"resource": "account:1042", "permission": "deny"}, {"permission": "allow"})

    def permission(given: Any) -> Permission:
        return decide(rules, call(spec, arguments={"id": given})).permission

    assert permission(number) is Permission.DENY
    assert [permission(1042), permission("1042"), permission(1043), permission("1043")] == [
        *["deny"] * 2,
        *["allow"] * 2,
    ]


@pytest.mark.parametrize("path", ["/data/../etc/passwd", "/data/%2e%2E/etc", "/data/..\\etc", "..", "/data/./x/.."])
def test_a_path_that_climbs_is_not_where_it_seems(path: str) -> None:
    """It neither passes for a file of the folder that a rule allows, nor for none of the folder that a rule denies."""
    allowed = policy({"when": {"path": {"glob": "/data/*"}}, "permission": "allow"}, strict=True)
    denied = policy({"when": {"path": {"glob": "/etc/*"}}, "permission": "deny"}, {"permission": "allow"})

    for rules in (allowed, denied):
        assert decide(rules, call(arguments={"path": path})).permission is Permission.DENY
        assert decide(rules, call(arguments={"path": "/data/a.b..c"})).permission is Permission.ALLOW


def test_null_is_not_the_same_as_nothing() -> None:
    """A tool may take null for no limit where it takes nothing for its default."""
    rules = policy({"when": {"limit": {"present": False}}, "permission": "allow"}, strict=True)

    assert decide(rules, call(arguments={})).permission is Permission.ALLOW
    assert decide(rules, call(arguments={"limit": None})).permission is Permission.DENY
    assert decide(rules, call(arguments={"limit": 3})).permission is Permission.DENY


@pytest.mark.parametrize("customer", [None, '{"country": "KP"}', [], 3])
def test_what_stands_in_an_objects_place_may_hold_what_is_asked_for(customer: Any) -> None:
    """A tool may take JSON in a text for an object: then nobody knows what is in it."""
    rules = policy({"when": {"customer.country": {"present": False}}, "permission": "allow"}, strict=True)

    assert decide(rules, call(arguments={"customer": customer})).uncertain is False
    assert decide(rules, call(arguments={"customer": customer})).permission is Permission.DENY
    assert decide(rules, call(arguments={"customer": {}})).permission is Permission.ALLOW


def test_a_rule_about_an_argument_is_about_the_tools_that_have_it() -> None:
    """A denial of large amounts says nothing of a tool that takes none; one that may take any is in doubt."""
    rules = policy({"when": {"amount": {"gt": 100}}, "permission": "deny"}, {"permission": "allow"})
    other = ToolSpec(name="find", input_schema={"properties": {"id": {}}, "additionalProperties": False})
    any_ = ToolSpec(name="any", input_schema={"type": "object"})

    assert decide(rules, call(other, arguments={"id": 1})).permission is Permission.ALLOW
    assert decide(rules, call(other, arguments={"id": 1, "amount": 101})).permission is Permission.DENY
    assert decide(rules, call(any_, arguments={"id": 1})).permission is Permission.DENY


@pytest.mark.parametrize("written", ["PT60M", "PT3600S", 3600, "pt1h"])
def test_a_text_with_a_format_is_sure_only_as_it_stands(written: Any) -> None:
    """An hour can be written in many ways; a rule about one of them does not let the others through."""
    schema = {"properties": {"every": {"type": "string", "format": "duration"}}, "additionalProperties": False}
    rules = policy({"when": {"every": "PT1H"}, "permission": "deny"}, {"permission": "allow"})

    decision = decide(rules, call(ToolSpec(name="t", input_schema=schema), arguments={"every": written}))

    assert (decision.permission, decision.uncertain) == (Permission.DENY, True)


@pytest.mark.parametrize(
    ("strict", "weak", "expected"),
    [
        ({"quorum": 2}, {}, "the stricter"),
        ({"approvers": ["cfo"]}, {"approvers": ["cfo", "clerk"]}, "the stricter"),
        ({"separation_of_duties": True}, {}, "the stricter"),
        ({"approvers": ["cfo"]}, {"approvers": ["clerk"]}, "neither"),
        ({"quorum": 2}, {"approvers": ["clerk"]}, "neither"),
        (
            {"quorum": 2},
            {
                "quorum": 2,
                "deadline": "1h",
                "on_deadline": "escalate",
                "escalate_to": {"quorum": 1},
            },
            "the stricter",
        ),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_in_doubt_the_stricter_approval_is_asked_for(
    strict: dict[str, Any], weak: dict[str, Any], expected: str, turned: bool
) -> None:
    """An amount that cannot be read gets nobody around the stricter approvers; without a stricter one, no approval."""
    first, second = (weak, strict) if turned else (strict, weak)
    rules = policy(
        {"when": {"amount": {"gt": 1000}}, "permission": "ask", "approval": first},
        {"permission": "ask", "approval": second},
    )

    decision = decide(rules, call(arguments={"amount": "1,001.00"}))

    if expected == "neither":
        assert (decision.permission, decision.untold) == (Permission.DENY, "the argument 'amount'")
    else:
        assert decision.permission is Permission.ASK
        assert decision.approval == ApprovalRequirement.model_validate(strict)


def test_own_is_what_belongs_to_the_user() -> None:
    """`own:` stands for the user on whose behalf the run is, in rules and in templates; nobody owns nothing."""
    spec = tool(resource="mailbox:{address}")
    rules = policy({"resource": "own:mailbox", "permission": "allow"}, strict=True)

    def permission(address: str, user: str | None) -> Permission:
        return decide(rules, call(spec, arguments={"address": address}, user=user)).permission

    assert permission("ann", "ann") is Permission.ALLOW
    assert permission("bob", "ann") is Permission.DENY
    assert permission("None", None) is Permission.DENY
    assert permission("*", "*") is Permission.ALLOW
    assert permission("bob", "*") is Permission.DENY
    assert decide(rules, call(tool(resource="own:mailbox"), user="ann")).resource == "mailbox:ann"


def test_a_rule_is_for_those_who_hold_its_role() -> None:
    """Any of the rule's roles and any of the caller's will do; `*` holds every role."""
    rules = policy({"role": ["manager", "lead-*"], "permission": "allow"}, strict=True)

    assert decide(rules, call(roles=("clerk", "lead-eu"))).permission is Permission.ALLOW
    assert decide(rules, call(roles=("*",))).permission is Permission.ALLOW
    assert decide(rules, call(roles=("clerk",))).permission is Permission.DENY
    assert decide(rules, call()).permission is Permission.DENY


def test_a_policy_is_the_same_after_its_way_through_history() -> None:
    """Pinned as JSON and read again it is equal, numbers and texts told apart."""
    rules = policy(
        {"when": {"a": 0.1, "b": "5", "c": [1, "x", True], "d": {"le": "1.10"}}, "permission": "ask"},
        {"permission": "ask", "approval": {"approvers": ["m"], "deadline": "4h", "on_deadline": "fail"}},
    )

    assert Policy.model_validate_json(rules.model_dump_json()) == rules
    assert decide(rules, call(arguments={"a": 0.1, "b": "5", "c": 1, "d": 1})).rule == "rule 1"


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"permission": "allow", "role": []}, "at least 1"),
        ({"permission": "allow", "when": {"a": []}}, "at least 1"),
        ({"permission": "allow", "when": {"a": None}}, "present: false"),
        ({"permission": "allow", "when": {"a": float("nan")}}, "finite"),
        ({"permission": "allow", "when": {"a": {"in": [1], "one_of": [2]}}}, "once"),
        ({"permission": "allow", "when": {"a b": 1}}, "pattern"),
        ({"permission": "allow", "name": "a\nb"}, "pattern"),
        ({"permission": "allow", "name": "default: mine"}, "no rule can be named"),
        ({"permission": "allow", "name": "the tool asks always"}, "no rule can be named"),
        ({"permission": "ask", "approval": {"deadline": "999999999.9d"}}, "less than or equal"),
        ({"permission": "maybe"}, "allow"),
        ({"permission": "allow", "approval": {"quorum": 2}}, "permission: ask"),
        ({"permission": "allow", "when": {"a": {}}}, "tests nothing"),
        ({"permission": "allow", "when": {"a": {"lte": 3}}}, "lte"),
        ({"permission": "ask", "approval": {"on_deadline": "escalate", "deadline": "1h"}}, "escalate_to"),
        ({"permission": "ask", "approval": {"on_deadline": "fail"}}, "needs a deadline"),
        ({"permissions": "allow"}, "permissions"),
    ],
)
def test_a_rule_that_means_nothing_is_refused(rule: dict[str, Any], says: str) -> None:
    """The message names what is wrong."""
    with pytest.raises(ValidationError, match=says):
        policy(rule)


def test_two_rules_of_one_name_are_refused() -> None:
    """Also where one has the name that the other has by its place."""
    with pytest.raises(ValidationError, match="'a'"):
        policy({"name": "a", "permission": "ask"}, {"name": "a", "permission": "deny"})
    with pytest.raises(ValidationError, match="'rule 2'"):
        policy({"name": "rule 2", "permission": "ask"}, {"permission": "deny"})


def test_a_policy_takes_the_room_of_what_it_says() -> None:
    """It is pinned in the history of every run: what was not written is not spelled out."""
    rules = policy({"tool": "refund", "when": {"amount": {"le": 50}, "currency": ["EUR"]}, "permission": "allow"})

    assert rules.model_dump_json() == (
        '{"rules":[{"tool":["refund"],"when":{"amount":{"le":"50"},"currency":{"in":["EUR"]}},"permission":"allow"}]}'
    )


def test_judging_takes_no_noticeable_time() -> None:
    """The largest policy on the longest texts stays far from the two seconds after which Temporal gives a run up."""
    letters = [chr(97 + number % 26) + chr(97 + number // 26) for number in range(500)]
    rules = policy(
        *({"when": {"text": {"glob": "*" + "*".join(two * 4) + "*"}}, "permission": "deny"} for two in letters),
    )
    began = time.process_time()

    for size in (8 * 1024, 500_000):
        decide(rules, call(arguments={"text": "ab \u00e9" * (size // 4)}))

    assert time.process_time() - began < 1
