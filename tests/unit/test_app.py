"""The registry: agents and tools found, resolved, and mistakes named at start-up."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from perdure import Agent, App, Limits
from perdure.app import load_app
from perdure.contracts import RunInput
from perdure.errors import (
    AppLoadError,
    ConfigurationError,
    DuplicateNameError,
    UnknownAgentError,
    UnknownToolError,
)


def desk() -> App:
    """An app with one tool and two versions of an agent."""
    app = App()

    @app.tool()
    def find(name: str) -> str:
        """Find something."""
        return name

    app.add(Agent(name="desk", version="1", model="anthropic:claude-sonnet-5-5", tools=("find",)))
    app.add(Agent(name="desk", version="2", model="openai:gpt-5", instructions="Be kind.", tools=("find",)))
    return app


def test_an_agent_is_found_by_name_and_version() -> None:
    """Without a version it is the one registered last."""
    app = desk()

    assert app.agent("desk").version == "2"
    assert app.agent("desk", "1").model == "anthropic:claude-sonnet-5-5"
    with pytest.raises(UnknownAgentError, match=r"'disk'; this app has: desk"):
        app.agent("disk")
    with pytest.raises(UnknownAgentError, match=r"no version '3'; it has: 1, 2"):
        app.agent("desk", "3")


def test_a_spec_is_the_same_after_a_journey() -> None:
    """What history holds resolves to the same requests: equal, and of the same digest."""
    app = desk()
    spec = app.resolve(app.agent("desk"))

    travelled = RunInput.model_validate_json(RunInput(spec=spec, input="hi").model_dump_json()).spec

    assert travelled == spec
    assert travelled.digest() == spec.digest()
    assert spec.digest() != app.resolve(app.agent("desk", "1")).digest()


def test_an_agent_that_names_a_missing_tool_stops_the_start() -> None:
    """The error names the agent, the tool and the tools there are."""
    app = desk()
    app.add(Agent(name="other", model="anthropic:x", tools=("find", "fnd")))

    with pytest.raises(UnknownToolError, match=r"agent 'other' .* fnd; it has: find"):
        app.check()


def test_duplicates_and_empty_apps_are_refused() -> None:
    """One version of an agent is registered once, a tool is named once, and an app has an agent."""
    app = desk()

    with pytest.raises(DuplicateNameError, match="a changed agent needs a new version"):
        app.add(Agent(name="desk", version="2", model="anthropic:x"))
    with pytest.raises(DuplicateNameError, match="'find'"):
        app.include(desk())
    with pytest.raises(ConfigurationError, match="no agent"):
        App().check()
    twice = App()
    twice.include(desk())
    twice.add(Agent(name="twice", model="anthropic:x", tools=("find", "find")))
    with pytest.raises(DuplicateNameError, match="names a tool twice"):
        twice.check()


@pytest.mark.parametrize("instructions", ["x" * 600_000, "語" * 200_000])
def test_an_agent_too_large_for_a_history_is_refused(instructions: str) -> None:
    """Instructions of half a megabyte would hang every run; they stop the process instead, in whatever script."""
    app = App()
    app.add(Agent(name="novel", model="anthropic:x", instructions=instructions))

    with pytest.raises(ConfigurationError, match="at most 524,288"):
        app.check()


@pytest.mark.parametrize("model", ["claude", ":claude", "anthropic:", "Anthropic:claude", ""])
def test_a_model_without_a_provider_is_refused(model: str) -> None:
    """The error shows the form that would be right."""
    with pytest.raises(ValueError, match="provider:model"):
        Agent(name="a", model=model)


@pytest.mark.parametrize("limits", [{"max_steps": 0}, {"run_timeout": -1}, {"max_steps": 10**9}, {"max_parrallel": 1}])
def test_absurd_limits_are_refused(limits: dict[str, int]) -> None:
    """Zero, negative, astronomic and misspelt limits are errors."""
    with pytest.raises(ValueError, match=r"greater|less|Extra"):
        Limits.model_validate(limits)


def test_an_app_is_loaded_by_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`package.module:attribute` finds the app, and each way to be wrong has its own message."""
    (tmp_path / "shop_app.py").write_text(
        "from perdure import Agent, App\napp = App()\napp.add(Agent(name='a', model='anthropic:x'))\nother = 3\n"
    )
    (tmp_path / "broken_app.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    assert next(load_app("shop_app:app").agents()).name == "a"
    for reference, said in [
        ("shop_app:ap", "no attribute 'ap'"),
        ("shop_app:other", "a int, not an App"),
        ("no_such_app:app", "no module 'no_such_app'"),
        ("broken_app:app", "importing 'broken_app' failed: No module named 'no_such_library'"),
        ("nobody", "no app 'nobody'"),
    ]:
        with pytest.raises(AppLoadError, match=said):
            load_app(reference)
    sys.modules.pop("shop_app")


def test_installed_apps_are_served_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a reference all entry points of the group make one app; none at all is an error that says how."""
    for name in ("one", "two"):
        (tmp_path / f"{name}_pkg.py").write_text(
            f"from perdure import Agent, App\napp = App()\napp.add(Agent(name='{name}', model='anthropic:x'))\n"
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    points = EntryPoints(EntryPoint(name, f"{name}_pkg:app", "perdure.apps") for name in ("one", "two"))
    monkeypatch.setattr("perdure.app.entry_points", lambda group: points.select(group=group))

    together = [agent.name for agent in load_app().agents()]
    one = [agent.name for agent in load_app("one").agents()]

    assert (together, one) == (["one", "two"], ["one"])
    monkeypatch.setattr("perdure.app.entry_points", lambda group: EntryPoints())
    with pytest.raises(AppLoadError, match="PERDURE_APP"):
        load_app()
