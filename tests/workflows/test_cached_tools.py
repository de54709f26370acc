"""A cached tool in a run: asked once, and told apart wherever the run is looked at."""

from __future__ import annotations

from io import StringIO

from rich.console import Console
from temporalio.client import Client

from perdure import App
from perdure.events import ToolFinished, steps
from perdure.history import read_events
from perdure_workers.timeline import Timeline
from tests.harness import InProcessModel, agent, answer, in_turns, last_results, serving, start, wish


async def test_a_run_shows_which_results_are_an_earlier_calls(client: Client) -> None:
    """The model reads the kept result as any other; events, steps and timeline say that the tool was not called."""
    app, calls = App(), []

    @app.tool(cache=60)
    def weather(city: str) -> str:
        """Look at the sky."""
        calls.append(city)
        return f"rain in {city}"

    app.add(agent(tools=("weather",)))
    asking = wish(("weather", {"city": "Ulm"}))
    model = InProcessModel(in_turns(asking, asking, answer("take an umbrella")))
    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        result = await handle.result()
        events = await read_events(client, handle.id)
    output = StringIO()
    timeline = Timeline(Console(file=output, width=80))
    for event in events:
        timeline.add(event)

    assert (result.output, calls) == ("take an umbrella", ["Ulm"])
    assert last_results(model.seen[-1]) == ["rain in Ulm"]
    assert [event.cached for event in events if isinstance(event, ToolFinished)] == [False, True]
    assert [step.cached for step in steps(events) if step.kind == "tool"] == [False, True]
    assert [("cached" in line) for line in output.getvalue().splitlines() if "weather(" in line] == [False, True]
