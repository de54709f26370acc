"""Metrics of real processes: one endpoint each, scraped by the real Prometheus, and alerts that its own tool checks."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
import uuid
from datetime import timedelta
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest
from temporalio.client import Client

from perdure.testing import eventually

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
PROGRAM = """
import asyncio, os, sys
from temporalio.runtime import Runtime
from perdure import metrics
from perdure.metrics_export import MetricsExport
class Circuits:
    def __init__(self, **states):
        self.known = states
    def states(self):
        return self.known
async def main():
    both = Circuits(m="closed"), Circuits(m="open")
    metrics.circuits.update(both)
    export = MetricsExport()
    metrics.runs_started.add(2, {"agent": "a", "version": "1"})
    metrics.model_duration.record(0.2, {"model": "m:x", "outcome": "ok"})
    metrics.cost.add(0.5, {"agent": "a", "model": "m:x"})
    Runtime.default().metric_meter.create_counter("temporal_of_the_sdk").add(3)
    async with export.served("127.0.0.1:0") as port:
        print(port, flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
sys.stdout.flush()
os._exit(0)
"""


def program(name: str) -> str:
    """Return the path of a program of Prometheus, which is never skipped over."""
    path = shutil.which(name)
    assert path, f"{name} is not installed: apt-get install --no-install-recommends prometheus"
    return path


def words() -> str:
    """Return the names of metrics that the code defines, as Prometheus has them."""
    text = (ROOT / "perdure" / "metrics.py").read_text() + (ROOT / "api/perdure_api/fleet_metrics.py").read_text()
    return " ".join(re.findall(r'"(perdure_[a-z_]+)"', text))


def test_every_metric_is_documented_and_every_rule_is_about_one() -> None:
    """docs/observability.md has each name, and the shipped alerts and graphs ask for no other."""
    document = (ROOT / "docs" / "observability.md").read_text()
    names = set(words().split())
    shipped = (PROMETHEUS / "rules.yaml").read_text()

    assert len(names) > 12
    assert [name for name in sorted(names) if f"`{name}" not in document] == []
    asked = set(re.findall(r"\bperdure_[a-z_]+", shipped))
    assert [name for name in sorted(asked) if not any(name.startswith(known) for known in names)] == []


@pytest.mark.parametrize(
    "command",
    [
        ("check", "rules", "rules.yaml"),
        ("test", "rules", "rules-test.yaml"),
        ("check", "config", "prometheus.yaml"),
        ("check", "config", "compose.yaml"),
    ],
)
def test_promtool_passes_the_alerts(command: tuple[str, ...]) -> None:
    """The shipped rules are valid, and fire when they are to."""
    ended = subprocess.run([program("promtool"), *command], cwd=PROMETHEUS, capture_output=True, text=True)

    assert ended.returncode == 0, ended.stdout + ended.stderr


async def test_one_endpoint_has_our_numbers_and_the_sdks() -> None:
    """A process serves both as one text; names follow Prometheus's conventions and no label names a run or a user."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        port = int(await asyncio.wait_for(process.stdout.readline(), 30))
        text = ""
        for _ in range(50):
            text = await asyncio.to_thread(_read, f"http://127.0.0.1:{port}/metrics")
            if "temporal_of_the_sdk" in text:
                break
            await asyncio.sleep(0.1)
    finally:
        process.stdin.close()
        await process.wait()

    assert 'perdure_runs_started_total{agent="a",version="1"} 2.0' in text
    assert 'perdure_model_call_duration_seconds_count{model="m:x",outcome="ok"} 1.0' in text
    assert 'perdure_cost_usd_total{agent="a",model="m:x"} 0.5' in text
    assert "temporal_of_the_sdk" in text
    assert 'perdure_breaker_state{model="m",state="open"} 1.0' in text
    assert 'perdure_breaker_state{model="m",state="closed"} 0.0' in text


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        text: str = answer.read().decode()
        return text


async def test_the_real_prometheus_scrapes_worker_and_api(tmp_path: Path, client: Client) -> None:
    """Debian's own Prometheus finds a run in the worker's numbers, and the queue's workers in the API's."""
    queue = f"queue-{uuid.uuid4().hex[:12]}"
    api_port, worker_port, port = (free_port() for _ in range(3))
    environment = {
        **os.environ,
        "PERDURE_TASK_QUEUE": queue,
        "TEMPORAL_ADDRESS": client.service_client.config.target_host,
        "TEMPORAL_NAMESPACE": client.namespace,
        "PERDURE_METRICS_ADDRESS": f"127.0.0.1:{worker_port}",
    }
    targets = f"[{{targets: ['127.0.0.1:{api_port}', '127.0.0.1:{worker_port}']}}]"
    (tmp_path / "prometheus.yaml").write_text(
        "global: {scrape_interval: 1s}\n"
        f"scrape_configs: [{{job_name: perdure, scrape_timeout: 1s, static_configs: {targets}}}]\n"
    )
    perdure = [sys.executable, "-m", "perdure_workers.cli"]
    app = ["--app", "tests.e2e.crash_app.app:app"]
    commands = [
        [*perdure, "worker", *app],
        [*perdure, "api", *app, "--port", str(api_port)],
        [
            program("prometheus"),
            f"--config.file={tmp_path / 'prometheus.yaml'}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
    ]
    children = [
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: ASYNC220  # a moment
        for command in commands
    ]

    async def found(query: str) -> bool:
        address = f"http://127.0.0.1:{port}/api/v1/query?query={quote(query)}"
        try:
            answer = json.loads(await asyncio.to_thread(_read, address))
        except OSError:
            return False
        return bool(answer["data"]["result"])

    try:
        for query in (
            f'perdure_workers{{task_queue="{queue}",kind="workflow"}} == 1',
            f'perdure_task_queue_backlog{{task_queue="{queue}"}} == 0',
            "temporal_num_pollers",
            "sum(up) == 2",
        ):
            await eventually(partial(found, query), within=timedelta(seconds=60), what=query)
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.wait(20)


def free_port() -> int:
    """Return a port of loopback that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
