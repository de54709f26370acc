"""The policy of an app: where it comes from, whether it fits, and what a run is pinned to."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from perdure import Agent, App
from perdure.app import load_app
from perdure.contracts import RunInput
from perdure.errors import ConfigurationError, PolicyError
from perdure.policy import Policy
from perdure.policy_file import MAX_POLICY_BYTES
from perdure.principal import ANYONE
from perdure.settings import Settings
from perdure_api.application import create_app
from perdure_api.schemas import NewRun
from perdure_api.starts import run_arguments
from perdure_workers.plugin import Perdure


class Size(StrEnum):
    """A parameter of few values."""

    SMALL = "small"
    LARGE = "large"


def shop(policy: Policy | Path | str | None = None, *, name: str = "desk") -> App:
    """Return an app of one agent, and tools of each kind, named after it where there are two."""
    app = App(policy=policy)
    prefix = "" if name == "desk" else f"{name}_"

    @app.tool(name=f"{prefix}find", resource="order:{order_id}")
    def find(order_id: str) -> str:
        """Find an order."""
        return order_id

    @app.tool(effect="once", name=f"{prefix}refund", resource="order:{order_id}")
    def refund(
        order_id: str,
        amount: Decimal,
        note: str = "",
        size: Size = Size.SMALL,
        day: date = date.min,
        all_: bool = False,
    ) -> str:
        """Pay back."""
        return order_id

    @app.tool(effect="once", approval="ask", name=f"{prefix}close")
    def close(ids: list[int], count: int = 0) -> str:
        """Close accounts."""
        return str(ids)

    app.add(Agent(name=name, model="anthropic:x", tools=[tool.spec.name for tool in app.tools()]))
    return app


def policy(*rules: dict[str, Any], **fields: Any) -> Policy:
    """Return a policy."""
    return Policy.model_validate({"rules": rules, **fields})


EVERYTHING = {"permission": "ask"}


def test_a_policy_is_read_when_the_app_is_checked(tmp_path: Path) -> None:
    """Building the app reads nothing; the file's mistake stops the start with its line."""
    file = tmp_path / "policy.yaml"
    app = shop(file)
    file.write_text("rules:\n  - permission: maybe\n")

    with pytest.raises(PolicyError, match=r"policy.yaml:2: .*'allow', 'ask' or 'deny'"):
        app.check()


def test_an_app_without_a_policy_pins_none() -> None:
    """Its runs go by the tools' own declarations, and start as they did before."""
    app = shop()

    arguments = run_arguments(NewRun(agent="desk", input="hi"), app, ANYONE)

    assert (arguments.policy, app.check()) == (None, ())


def test_a_run_is_pinned_to_policy_and_roles() -> None:
    """What governs a run stands in its input; whoever says nothing of roles holds all, as does who needs none."""
    rules = policy(EVERYTHING)
    app = shop(rules)

    everyone = run_arguments(NewRun(agent="desk", input="hi"), app, ANYONE)
    clerk = run_arguments(NewRun(agent="desk", input="hi", roles=("clerk",)), app, ANYONE)
    nobody = run_arguments(NewRun(agent="desk", input="hi", roles=()), app, ANYONE)

    assert (everyone.policy, clerk.policy) == (rules, rules)
    assert (everyone.roles, clerk.roles, nobody.roles) == (("*",), ("clerk",), ())
    assert RunInput.model_validate_json(clerk.model_dump_json()).policy == rules


def test_included_agents_keep_the_policy_they_came_with() -> None:
    """One worker may serve packages of several authors, each with rules of its own."""
    ours, theirs = policy(EVERYTHING), policy({"permission": "deny"})
    both = App()
    both.include(shop(ours))
    both.include(shop(theirs, name="other"))
    both.include(shop(name="third"))

    pinned = {
        agent.name: run_arguments(NewRun(agent=agent.name, input="hi"), both, ANYONE).policy for agent in both.agents()
    }

    assert pinned == {"desk": ours, "other": theirs, "third": None}
    assert any("refund" in remark for remark in both.check()) is True


def test_the_policy_of_an_app_that_includes_others_governs_them() -> None:
    """Its author decides for all of them; where the others have a policy too, nobody guesses which one counts."""
    rules = policy(EVERYTHING)
    both = App(policy=rules)
    both.include(shop(name="third"))

    with pytest.raises(ConfigurationError, match="both apps have a policy"):
        both.include(shop(policy(EVERYTHING), name="other"))

    assert run_arguments(NewRun(agent="third", input="hi"), both, ANYONE).policy == rules


def test_the_operators_policy_takes_the_place_of_the_apps(tmp_path: Path) -> None:
    """`PERDURE_POLICY` wins in API, worker and command line; the app's own file is not even read."""
    file = tmp_path / "policy.toml"
    file.write_text('[[rules]]\nname = "mine"\npermission = "ask"\n')
    settings = Settings(policy=file)

    def names(app: App) -> list[str]:
        pinned = run_arguments(NewRun(agent="desk", input="hi"), app, ANYONE).policy
        return [name for name, _ in pinned.named_rules] if pinned else []

    api, worker = shop(tmp_path / "missing.yaml"), shop(policy(EVERYTHING))
    create_app(api, settings)
    Perdure(worker, settings=settings, providers={})

    assert (names(api), names(worker)) == (["mine"], ["mine"])


def test_a_loaded_app_is_governed_by_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`load_app` checks the setting's file against the app, wherever the app comes from."""
    file = tmp_path / "policy.yaml"
    file.write_text("rules:\n  - {tool: nothing, permission: deny}\n")
    (tmp_path / "governed_app.py").write_text(
        "from perdure import Agent, App\napp = App()\napp.add(Agent(name='a', model='anthropic:x'))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    with pytest.raises(PolicyError, match=r"policy.yaml:2: rule 'rule 1': no tool of this app matches 'nothing'"):
        load_app("governed_app:app", policy=file)


MISFITS: list[tuple[dict[str, Any], str]] = [
    ({"tool": "refnd"}, r"no tool of this app matches 'refnd'; did you mean 'refund'\?; it has: close, find, refund"),
    ({"tool": ["refund", "x*"]}, r"no tool of this app matches 'x\*'"),
    ({"agent": "dask"}, r"no agent of this app matches 'dask'; did you mean 'desk'\?"),
    ({"tool": "find", "effect": []}, "would be for every tool; leave it out"),
    ({"tool": "find", "effect": "once"}, "no tool of the effect once that it names"),
    ({"tool": "close", "resource": "order:*"}, "names a resource, but close declares none"),
    ({"tool": ["close", "refund"], "resource": "order:*"}, "never matches close, which declares no resource"),
    ({"resource": "ordr:*"}, r"touches a resource as 'ordr:\*'; did you mean 'order'\?; kinds are: order"),
    ({"resource": ["order:*", "own:mailbox"]}, "touches a resource as 'own:mailbox'"),
    ({"tool": "refund", "when": {"amont": 1}}, r"takes an argument 'amont'; did you mean 'amount'\?; arguments are: "),
    ({"tool": "refund", "when": {"note.text": "a"}}, "takes an argument 'note.text'"),
    ({"tool": "refund", "when": {"note": {"le": 5}}}, "is of type string and not compared as a number"),
    ({"tool": "refund", "when": {"note": 5}}, "is of type string, and never 5"),
    ({"tool": "refund", "when": {"all_": "yes"}}, "is of type boolean, and never 'yes'"),
    ({"tool": "refund", "when": {"size": ["small", "big"]}}, r"is one of \('small', 'large'\)"),
    ({"tool": "close", "when": {"ids": 5}}, "is of type array; a rule compares single values"),
    ({"tool": "close", "when": {"count": {"glob": "1*"}}}, "is of type integer; glob is for texts"),
    ({"tool": "close", "when": {"count": "1"}}, "is of type integer, and never '1'"),
]


@pytest.mark.parametrize(("rule", "says"), MISFITS, ids=[one[1][:40] for one in MISFITS])
def test_a_rule_that_can_never_match_as_it_says_stops_the_start(rule: dict[str, Any], says: str) -> None:
    """A denial with a misspelt name would deny nothing, and nobody would notice."""
    with pytest.raises(PolicyError, match=f"rule 'mine': .*{says}"):
        shop(policy({"name": "mine", "permission": "deny", **rule})).check()


@pytest.mark.parametrize(("rule", "says"), MISFITS[:4])
def test_a_shared_file_may_have_rules_for_other_apps(rule: dict[str, Any], says: str) -> None:
    """With `shared: true` they are remarks, for whoever reads the log."""
    remarks = shop(policy({"permission": "deny", **rule}, EVERYTHING, shared=True)).check()

    assert any("no " in remark and "shared" not in remark for remark in remarks)


def test_a_mistake_is_told_with_its_line_in_the_rule(tmp_path: Path) -> None:
    """The line is that of the part which is wrong, not of the rule."""
    file = tmp_path / "policy.yaml"
    file.write_text("rules:\n  - tool: refund\n    permission: deny\n    when:\n      amount: 1\n      amont: 2\n")

    with pytest.raises(PolicyError) as refused:
        shop(file).check()

    assert str(refused.value).startswith(f"{file}:6: rule 'rule 1': ")


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ([EVERYTHING, {"tool": "refund", "permission": "deny"}], "rule 'rule 2': is never reached: 'rule 1' before it"),
        ([{"tool": "find", "permission": "allow"}, EVERYTHING], ""),
        ([{"tool": "find", "permission": "allow"}], "find runs whether a rule allows it or not"),
        ([{"tool": "find", "permission": "allow"}], "no rule lets refund run: every call of it is denied"),
        ([{"tool": "close", "permission": "allow"}, EVERYTHING], "close asks a human always"),
        ([{"tool": "refund", "when": {"day": "2026-01-01"}, **EVERYTHING}], "is a date, which can be written in sev"),
        ([{"tool": ["refund", "close"], "when": {"count": {"le": 5}}, **EVERYTHING}], ""),
        (
            [
                {"tool": "refund", "when": {"amount": {"le": 5}}, "permission": "allow"},
                {"tool": "refund", "when": {"amount": {"le": 5}}, "role": "a", "permission": "allow"},
                {"tool": "refund", "when": {"amount": {"le": 6}}, "permission": "allow"},
                EVERYTHING,
            ],
            "rule 'rule 2': is never reached",
        ),
    ],
)
def test_what_is_odd_is_remarked(rules: list[dict[str, Any]], says: str) -> None:
    """Rules that change nothing, or leave more or less than one may think, are said in the log and stop nothing."""
    remarks = shop(policy(*rules)).check()

    assert any(says in remark for remark in remarks) if says else not remarks
    assert not any("rule 3" in remark for remark in remarks)


def test_a_policy_too_large_for_a_history_stops_the_start() -> None:
    """However it was made."""
    rules = policy(*({"tool": ["refund", "x" * 200], "permission": "deny"} for _ in range(400)))

    with pytest.raises(PolicyError, match=f"at most {MAX_POLICY_BYTES:,} fit"):
        shop(rules).check()
