"""`perdure policy`: a decision explained without a server, and a table of cases held against the policy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.test_cli import perdure

CALL = ("--app", "support_desk", "--agent", "support", "--tool", "refund_order")
CASE = """\
cases:
  - agent: support
    tool: refund_order
    role: clerk
    arguments: {order_id: A-1, amount: 5}
    expect: allow
"""


def write(folder: Path, name: str, text: str) -> str:
    """Write a file and return its path."""
    (folder / name).write_text(text)
    return str(folder / name)


def test_a_decision_is_explained_rule_by_rule() -> None:
    """The answer first, then for each rule its line and what kept it from matching, or what cannot be told."""
    amount = json.dumps({"order_id": "A-1001", "amount": 249})
    unclear = json.dumps({"order_id": "A-1001", "amount": "1,000"})

    asked, denied = (
        perdure("policy", "check", *CALL, "--role", "clerk", "--args", given) for given in (amount, unclear)
    )

    assert (asked.returncode, denied.returncode) == (0, 0)
    for said in (
        "ask by 'other refunds', line 27",
        "approval: one who may decide, within 1d, or else reject",
        "resource: order:A-1001",
        "'look things up' (line 9, allow) does not match",
        "effect: refund_order is once, and it is for read",
        "argument 'amount' is 249; it does not pass: gt 500",
        "'other refunds' (line 27, ask) matches",
        "support_desk/policy.yaml",
    ):
        assert said in asked.stdout, said
    assert "deny by 'no refund over 500 euros', line 13, as it may match" in denied.stdout
    assert "it cannot be told whether it passes: gt 500" in denied.stdout
    assert "but: The arguments of refund_order do not fit its schema" in denied.stdout


def test_a_decision_as_json_has_everything(tmp_path: Path) -> None:
    """Programs get the permission, the rule with its line, why others did not match, resource and approvers."""
    policy = write(
        tmp_path,
        "p.toml",
        '[[rules]]\nrole = "intern"\npermission = "deny"\n'
        + '[[rules]]\nresource = "own:order"\npermission = "allow"\n'
        + '[[rules]]\npermission = "ask"\napproval = {approvers = ["cfo"], quorum = 2}\n',
    )

    ended = perdure(
        "policy", "check", *CALL, "--policy", policy, "--user", "ann", "--args", '{"order_id": 7}', "--json"
    )

    answer = json.loads(ended.stdout)
    decision = answer["decision"]
    assert (answer["policy"], decision["permission"], decision["rule"], decision["line"]) == (
        policy,
        "ask",
        "rule 3",
        7,
    )
    assert decision["approval"]["approvers"] == ["cfo"]
    assert decision["resource"] == "order:7"
    assert [rule["matches"] for rule in decision["rules"]] == [False, False, True]
    assert decision["rules"][0]["because"] == ["role: the caller holds none, and it is for intern"]
    assert decision["rules"][1]["because"] == ["resource: order:7 is none of own:order"]
    assert "amount" in answer["misfit"]


def test_a_table_of_cases_passes_or_says_which_do_not(tmp_path: Path) -> None:
    """All as expected is 0; otherwise 1, with each case that is not, its line, and what came instead."""
    good = write(tmp_path, "good.yaml", CASE)
    bad = write(tmp_path, "bad.yaml", CASE + CASE.removeprefix("cases:\n").replace("amount: 5", "amount: 50"))

    passed = perdure("policy", "test", good, "--app", "support_desk")
    failed = perdure("policy", "test", bad, "--app", "support_desk")
    as_json = perdure("policy", "test", bad, "--app", "support_desk", "--json")

    assert (passed.returncode, passed.stdout) == (0, "1 of 1 cases as expected\n")
    assert failed.returncode == 1
    assert "1 of 2 cases as expected" in failed.stdout
    report = json.loads(as_json.stdout)
    assert (as_json.returncode, report["cases"]) == (1, 2)
    [failure] = report["failures"]
    assert failure["place"] == f"{bad}:7"
    assert failure["decision"]["rule"] == "other refunds"


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("cases: []\n", "has no case, and so tests nothing"),
        ("case: []\n", "has no case, and so tests nothing"),
        (CASE.replace("allow", "allowed"), ":6: cases[1].expect: "),
        (CASE.replace("expect", "expct"), "did you mean 'expect'?"),
        (CASE.replace("refund_order", "refund_ordr"), ":2: agent 'support' has no tool 'refund_ordr'; did you mean"),
        (CASE.replace("agent: support", "agent: nobody"), ":2: no agent is named 'nobody'"),
        (CASE + "    rule: small refnds\n", ":7: the policy has no rule 'small refnds'; did you mean 'small refunds'?"),
    ],
)
def test_a_table_that_tests_nothing_or_something_else_is_refused(tmp_path: Path, table: str, says: str) -> None:
    """A misspelt table must not be green: it is one line, and exit code 2."""
    ended = perdure("policy", "test", write(tmp_path, "cases.yaml", table), "--app", "support_desk")

    assert (ended.returncode, ended.stdout) == (2, "")
    assert says in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--args", "5"), "is no object"),
        (("--args", "{"), "is not JSON"),
        (("--policy", "nowhere.yaml"), "nowhere.yaml: cannot be read: No such file"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(arguments: tuple[str, ...], says: str) -> None:
    """It is one line that says what would be right, and exit code 2."""
    ended = perdure("policy", "check", *CALL, *arguments)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert says in ended.stderr


@pytest.mark.parametrize(
    "command", ["worker", "api --port 0", "run support hi", "dev --port 0 --ui-port 0 --api-port 0"]
)
def test_a_wrong_policy_stops_every_command_that_serves_or_starts(tmp_path: Path, command: str) -> None:
    """The setting's file is checked before anything is connected to, and the line that is wrong is named."""
    policy = write(tmp_path, "policy.yaml", "rules:\n  - tool: refnd_order\n    permission: deny\n")

    ended = perdure(*command.split(), "--app", "support_desk", PERDURE_POLICY=policy, folder=tmp_path)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"perdure: {policy}:2: rule 'rule 1': no tool of this app matches 'refnd_order'")
    assert len(ended.stderr.splitlines()) == 1


def test_what_is_odd_is_noted(tmp_path: Path) -> None:
    """Whoever asks about the policy reads what the worker would log."""
    policy = write(tmp_path, "policy.yaml", "rules:\n  - permission: ask\n  - permission: deny\n")

    ended = perdure("policy", "check", *CALL, "--policy", policy)

    assert ended.returncode == 0
    assert f"note: {policy}:3: rule 'rule 2': is never reached: 'rule 1' before it matches all" in ended.stderr
