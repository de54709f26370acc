"""Traces as a backend gets them: from the processes of `perdure dev`, over OTLP/HTTP, and from the command line."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from perdure.testing import Call, Script, ScriptedModel, Turn, eventually
from tests.e2e.dev_session import Running, dev_session
from tests.otlp_receiver import OtlpReceiver, otlp_receiver

pytestmark = pytest.mark.e2e

APP = """
from perdure import Agent, App

app = App()


@app.tool(effect="read")
async def look(order: str) -> str:
    \"\"\"Look an order up.\"\"\"
    return f"{order} is paid"


app.add(Agent(name="helper", model="anthropic:claude-sonnet-5-5", tools=["look"]))
"""
SCRIPT = [Turn(calls=[Call("look", {"order": "A-1"})]), Turn("It is paid.")]
OF_THE_RUN = [
    "call_model",
    "call_model",
    "chat claude-sonnet-5-5",
    "chat claude-sonnet-5-5",
    "execute_tool look",
    "invoke_agent helper",
    "run helper",
]


async def names(receiver: OtlpReceiver, trace_id: str) -> list[str]:
    """Return the names of a trace's spans, once the run's own, the last, is there."""
    await eventually(
        lambda: any(span.trace_id == trace_id for span in receiver.named("run helper")), what="the whole run's span"
    )
    return sorted(span.name for span in receiver.spans if span.trace_id == trace_id)


def logged(running: Running) -> list[dict[str, Any]]:
    """Return the lines of all processes that are JSON."""
    texts = (line.partition(" │ ")[2] for line in running.log.splitlines())
    return [json.loads(text) for text in texts if text.startswith("{")]


async def started_by_command(running: Running, folder: Path, **variables: str) -> str:
    """Start a run by `perdure run`, and return its id."""
    command = [sys.executable, "-m", "perdure_workers.cli", "run", "helper", "Is A-1 paid?"]
    environment = {**os.environ, "PERDURE_APP": "helper_app:app", "TEMPORAL_ADDRESS": running.address("Temporal gRPC")}
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env={**environment, **variables}, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    return out.decode().strip()


async def test_a_backend_has_one_trace_for_each_run_and_nothing_else(tmp_path: Path) -> None:
    """From the request or the command to the model and the tool: one trace, no span twice, none for a probe."""
    (tmp_path / "helper_app.py").write_text(APP, encoding="utf-8")
    with otlp_receiver() as receiver:
        otlp = {
            "PERDURE_LOG_FORMAT": "json",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        async with (
            ScriptedModel(Script(SCRIPT)) as model,
            dev_session(tmp_path, "helper_app:app", **otlp, **model.environment()) as running,
            httpx2.AsyncClient(base_url=running.address("API"), trust_env=False) as http,
        ):
            posted = (await http.post("/v1/runs", json={"agent": "helper", "input": "Is A-1 paid?"})).json()["run_id"]
            by_request = (await http.get(f"/v1/runs/{posted}")).json()["trace_id"]
            of_request = await names(receiver, by_request)
            typed = await started_by_command(running, tmp_path, **otlp)
            by_command = (await http.get(f"/v1/runs/{typed}")).json()["trace_id"]
            of_command = await names(receiver, by_command)
            probed = (await http.get("/readyz")).status_code
            lines = logged(running)

    for event, step in (("run_started", None), ("model_replied", 1), ("tool_called", 2), ("model_replied", 3)):
        [line] = [one for one in lines if (one["event"], one.get("step"), one.get("run_id")) == (event, step, posted)]
        assert (line["agent"], line["trace_id"]) == ("helper", by_request)
        assert {"user", "org", "span_id"} <= line.keys()
    assert of_request == sorted(["POST /v1/runs", *OF_THE_RUN])
    assert of_command == OF_THE_RUN
    assert probed == 200
    others = {span.name for span in receiver.spans if span.trace_id not in (by_request, by_command)}
    assert others <= {"GET /v1/runs/{run_id}"}
