"""The policy as a pure function: first match wins, defaults deny what is dangerous, and doubt never widens."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from perdure.policy import CallFacts, Permission, Policy, decide
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
    assert decide(rules, call(arguments={"a": "0.10", "b": "5", "c": 1, "d": 1})).rule == "rule 1"


@pytest.mark.parametrize(
    ("rule", "says"),
    [
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
