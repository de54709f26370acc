"""Rates as authors write them, and as Temporal counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure import App
from perdure.agent import AgentSpec
from perdure.errors import ConfigurationError, DuplicateNameError, InvalidToolError
from perdure.rate import Rate
from tests.harness import agent


@pytest.mark.parametrize(("written", "per_second"), [("10/s", 10), ("90/m", 1.5), ("36/h", 0.01), ("1/h", 1 / 3600)])
def test_a_rate_is_calls_a_second_minute_or_hour(written: str, per_second: float) -> None:
    """Temporal counts by the second, in fractions."""
    assert Rate.model_validate(written).per_second == per_second


@given(calls=st.integers(1, 999_999_999), per=st.sampled_from(["s", "m", "h"]))
def test_a_rate_is_written_as_it_is_read(calls: int, per: str) -> None:
    """History holds what the author wrote."""
    rate = Rate.model_validate(f"{calls}/{per}")

    assert str(rate) == f"{calls}/{per}"
    assert Rate.model_validate_json(rate.model_dump_json()) == rate


@pytest.mark.parametrize("written", ["0/s", "10", "10/d", "-1/s", "1.5/s", "10 per second", "", "٣/s", "10/s\n", 10])
def test_what_is_no_rate_is_refused_where_it_is_written(written: object) -> None:
    """A tool with it never registers, and an app with it never starts."""
    app = App()

    with pytest.raises(InvalidToolError, match="rate"):
        app.tool(rate=written)  # type: ignore[arg-type]  # what authors write is only known when it runs
    with pytest.raises(ConfigurationError, match="provider_rates"):
        App(provider_rates={"anthropic": written})  # type: ignore[dict-item]  # as above


def test_a_run_is_pinned_to_the_rates_of_its_start() -> None:
    """The spec in history says which calls go to which queue."""
    app = App(provider_rates={"in-process": "50/s"})

    @app.tool(rate="90/m")
    def search() -> str:
        """Search."""
        return ""

    spec = app.resolve(app.add(agent(tools=("search",))))

    assert AgentSpec.model_validate_json(spec.model_dump_json()) == spec
    assert [(tool.name, str(tool.rate)) for tool in spec.tools] == [("search", "90/m")]
    assert {queue.name: str(queue.rate) for queue in app.rated_queues("desk")} == {
        "desk.tool.search": "90/m",
        "desk.model.in-process": "50/s",
    }


def test_apps_of_one_worker_agree_on_a_providers_rate() -> None:
    """Taken together, two packages cannot each have a limit of their own for the same account."""
    app = App()
    app.include(App(provider_rates={"anthropic": "50/s"}))
    app.include(App(provider_rates={"anthropic": "50/s", "openai": "10/s"}))

    assert [queue.serves for queue in app.rated_queues("q")] == ["anthropic", "openai"]
    with pytest.raises(DuplicateNameError, match="anthropic"):
        app.include(App(provider_rates={"anthropic": "20/s"}))
