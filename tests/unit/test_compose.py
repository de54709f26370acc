"""The cluster's compose file, checked by Docker Compose itself and against the programs that it starts."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import subprocess
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
import yaml
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from perdure import Agent, App
from perdure.settings import Settings, load_settings
from perdure_api.application import create_app
from perdure_workers.dev_server import DYNAMIC_CONFIG
from perdure_workers.ports import free_port

ROOT = Path(__file__).parents[2]
COMPOSE_FILE = ROOT / "docker-compose.temporal.yml"
DEV_PROFILE = ROOT / "deploy" / "dev.env"
SECRETS = ("POSTGRES_PASSWORD",)

Service = dict[str, Any]


def program(name: str) -> str:
    """Return the path of a program of the development environment."""
    path = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    assert path, f"{name} is not installed; 'make setup' installs it"
    return path


def resolve(env_file: Path, variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Have Docker Compose validate and resolve the file; it needs no Docker engine for that."""
    return subprocess.run(
        [program("docker-compose"), "--env-file", env_file, "--file", COMPOSE_FILE, "config", "--format", "json"],
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def services() -> dict[str, Service]:
    resolved = resolve(DEV_PROFILE, {})
    assert resolved.returncode == 0, resolved.stderr
    found: dict[str, Service] = json.loads(resolved.stdout)["services"]
    return found


def run_job(job: list[str], variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a container's script as the container would, with these variables alone."""
    return subprocess.run(job, env=variables, capture_output=True, text=True, check=False)


def perdure_services(services: dict[str, Service]) -> dict[str, Service]:
    """Return those services that run our own image."""
    return {name: service for name, service in services.items() if "build" in service}


def seconds(duration: str) -> float:
    """Read a duration as Compose writes it: `1m0s`."""
    units = {"h": 3600, "m": 60, "s": 1}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+)([hms])", duration))


@pytest.mark.parametrize("secret", SECRETS)
def test_nothing_starts_without_a_secret(secret: str) -> None:
    """A secret has no default: Compose refuses the file and names what is missing."""
    others = {name: "given" for name in SECRETS if name != secret}

    resolved = resolve(Path(os.devnull), others)

    assert resolved.returncode != 0
    assert f"required variable {secret} is missing" in resolved.stderr


def test_the_development_profile_sets_only_the_secrets() -> None:
    """The committed profile gives the secrets a value for laptops and changes nothing else."""
    assigned = re.findall(r"^(\w+)=", DEV_PROFILE.read_text(), flags=re.MULTILINE)

    assert sorted(assigned) == sorted(SECRETS)


def test_a_setting_that_is_not_given_stays_unset(services: dict[str, Service]) -> None:
    """An empty variable is not an unset one, so optional settings are handed on only if they exist."""
    empty = [
        name for service in services.values() for name, value in service.get("environment", {}).items() if value == ""
    ]

    assert empty == []


def test_ports_are_published_on_loopback_only(services: dict[str, Service]) -> None:
    """Nothing of the cluster is reachable from another machine until an operator says so."""
    published = [port for service in services.values() for port in service.get("ports", [])]

    assert len(published) == 4
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}


def test_images_are_pinned(services: dict[str, Service]) -> None:
    """Each image has a version in its tag, so that the same file starts the same cluster tomorrow."""
    for name, service in services.items():
        assert re.search(r":v?\d+\.\d+", service["image"]), f"{name} runs {service['image']!r}"


def test_the_cluster_runs_the_server_that_the_tests_run_on(services: dict[str, Service]) -> None:
    """Server, schema tools and Web UI have the versions inside the development server."""
    version = subprocess.run([program("temporal"), "--version"], capture_output=True, text=True, check=True).stdout

    inside = re.search(r"Server ([\d.]+), UI ([\d.]+)", version)

    assert inside
    assert services["temporal"]["image"] == f"temporalio/server:{inside[1]}"
    assert services["temporal-schema"]["image"] == f"temporalio/admin-tools:{inside[1]}"
    assert services["temporal-namespace"]["image"] == f"temporalio/admin-tools:{inside[1]}"
    assert services["temporal-ui"]["image"] == f"temporalio/ui:{inside[2]}"


def test_server_settings_are_those_of_the_development_server() -> None:
    """The cluster's dynamic configuration and `perdure dev` have one table of settings."""
    written = yaml.safe_load((ROOT / "deploy/temporal/dynamic-config.yaml").read_text())

    assert {key: [entry["value"] for entry in entries] for key, entries in written.items()} == {
        key: [value] for key, value in DYNAMIC_CONFIG.items()
    }


def test_the_server_reads_the_mounted_settings(services: dict[str, Service]) -> None:
    """The path that the server is told is where the file is mounted, read-only."""
    temporal = services["temporal"]
    mounts = {mount["target"]: mount for mount in temporal["volumes"]}

    mount = mounts[temporal["environment"]["DYNAMIC_CONFIG_FILE_PATH"]]

    assert Path(mount["source"]) == ROOT / "deploy/temporal/dynamic-config.yaml"
    assert mount["read_only"]


def test_mounted_files_exist(services: dict[str, Service]) -> None:
    """Docker would make an empty folder of a mounted file that is missing."""
    sources = [
        Path(mount["source"])
        for service in services.values()
        for mount in service.get("volumes", [])
        if mount["type"] == "bind"
    ]

    assert sources
    assert [source for source in sources if not source.is_file()] == []


def test_commands_exist(services: dict[str, Service]) -> None:
    """Each command of a Perdure container is one that `perdure` has, with these options."""
    for name, service in perdure_services(services).items():
        helped = subprocess.run(
            [program("perdure"), *service["command"], "--help"], capture_output=True, text=True, check=False
        )

        assert helped.returncode == 0, f"{name}: {helped.stderr}"


@pytest.mark.parametrize("name", ["worker", "api"])
def test_settings_exist_and_are_valid(
    services: dict[str, Service], name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each `PERDURE_*` variable of a container is a setting, and the container would accept its value."""
    environment = {key: value for key, value in services[name]["environment"].items() if key.startswith("PERDURE_")}
    unknown = [
        key
        for key in environment
        if key.removeprefix("PERDURE_").partition("__")[0].lower() not in Settings.model_fields
    ]
    monkeypatch.chdir(tmp_path)
    for key, value in environment.items():
        if value is not None:
            monkeypatch.setenv(key, value)

    settings = load_settings()

    assert unknown == []
    settings.check_exposure()


def test_the_api_asks_who_calls(services: dict[str, Service]) -> None:
    """There is no key that everybody knows: the operator makes the first one."""
    assert services["api"]["environment"]["PERDURE_AUTH"] == "required"


def test_a_worker_is_not_killed_while_it_drains(services: dict[str, Service]) -> None:
    """Docker waits longer for a worker than the worker waits for its running calls."""
    worker = services["worker"]

    own_grace = float(worker["environment"]["PERDURE_SHUTDOWN_GRACE_SECONDS"])

    assert seconds(worker["stop_grace_period"]) >= own_grace + 10


def test_there_are_several_workers(services: dict[str, Service]) -> None:
    """One worker can be lost, or replaced by a newer one, without runs standing still."""
    assert services["worker"]["deploy"]["replicas"] >= 2


def test_addresses_agree(services: dict[str, Service]) -> None:
    """Whoever is told an address finds there the container and the port that serve it."""
    api, ui = services["api"], services["temporal-ui"]
    (api_port,), (ui_port,), (temporal_port,) = api["ports"], ui["ports"], services["temporal"]["ports"]

    clients = {service.get("environment", {}).get("TEMPORAL_ADDRESS") for service in services.values()} - {None}

    assert clients == {f"temporal:{temporal_port['target']}"}
    assert api["environment"]["PERDURE_API_PORT"] == str(api_port["target"])
    assert f"http://127.0.0.1:{api_port['target']}/healthz" in api["healthcheck"]["test"][-1]
    assert ui["environment"]["TEMPORAL_UI_PORT"] == str(ui_port["target"])
    assert urlsplit(api["environment"]["PERDURE_UI_URL"]).port == int(ui_port["published"])
    assert urlsplit(ui["environment"]["TEMPORAL_CODEC_ENDPOINT"]).port == int(api_port["published"])


def test_prometheus_finds_worker_and_api(services: dict[str, Service]) -> None:
    """Each scraped name is a service that shares a network with Prometheus, at the port where it has its numbers."""
    prometheus = services["prometheus"]
    mounts = {mount["target"]: mount for mount in prometheus["volumes"]}
    config = mounts["/etc/prometheus/prometheus.yaml"]
    scraped = {
        name: found["port"]
        for job in yaml.safe_load(Path(config["source"]).read_text())["scrape_configs"]
        for found in job["dns_sd_configs"]
        for name in found["names"]
    }

    worker = services["worker"]["environment"]["PERDURE_METRICS_ADDRESS"]

    assert scraped == {"api": services["api"]["ports"][0]["target"], "worker": int(worker.rpartition(":")[2])}
    assert all(set(services[name]["networks"]) & set(prometheus["networks"]) for name in scraped)
    assert "--config.file=/etc/prometheus/prometheus.yaml" in prometheus["command"]
    assert mounts["/etc/prometheus/rules.yaml"]["read_only"]
    assert config["read_only"]
    assert "published" not in str(services["worker"].get("ports", []))


async def test_the_api_serves_what_others_are_told_to_call(services: dict[str, Service]) -> None:
    """The API answers the health check of its container, and the address where the Web UI has payloads decoded."""
    health = re.search(r"http://[^']+", services["api"]["healthcheck"]["test"][-1])
    codec = services["temporal-ui"]["environment"]["TEMPORAL_CODEC_ENDPOINT"]
    assert health
    app = App()
    app.add(Agent(name="any", version="1", model="anthropic:any", instructions="Help."))
    api = create_app(app, Settings())

    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(api), base_url="http://api") as caller:
        healthy = await caller.get(urlsplit(health[0]).path)
        decoded = await caller.post(f"{urlsplit(codec).path}/decode", json={"payloads": []})

    assert healthy.status_code == 200
    assert decoded.status_code == 200


def test_only_temporal_reaches_the_database(services: dict[str, Service]) -> None:
    """A tool runs in a worker; neither worker nor API shares a network with PostgreSQL."""
    beside_database = {name for name, service in services.items() if "backend" in service["networks"]}

    assert beside_database == {"postgres", "temporal-schema", "temporal"}


def test_perdure_containers_are_confined(services: dict[str, Service]) -> None:
    """A container of ours has no capabilities, gains no privileges and writes to its volume alone."""
    ours = perdure_services(services)

    assert set(ours) == {"worker", "api"}
    for service in ours.values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_dependencies_are_waited_for(services: dict[str, Service]) -> None:
    """No container starts before what it needs: a server that is healthy, a job that has done its work."""
    jobs = {"temporal-schema", "temporal-namespace"}
    for service in services.values():
        for needed, how in service.get("depends_on", {}).items():
            if needed in jobs:
                assert how["condition"] == "service_completed_successfully"
            elif "healthcheck" in services[needed]:
                assert how["condition"] == "service_healthy"


async def test_the_namespace_job_creates_the_namespace_once() -> None:
    """The job's script ends when a real server serves the new namespace; run again, it changes nothing."""
    job = ["/bin/sh", str(ROOT / "deploy/temporal/namespace.sh")]
    async with await WorkflowEnvironment.start_local(
        port=free_port(), dev_server_existing_path=program("temporal")
    ) as server:
        address = server.client.service_client.config.target_host
        variables = {
            "PATH": f"{Path(program('temporal')).parent}:{os.environ['PATH']}",
            "TEMPORAL_ADDRESS": address,
            "TEMPORAL_NAMESPACE": "fresh",
            "NAMESPACE_RETENTION": "168h",
        }

        runs = [await asyncio.to_thread(run_job, job, variables) for _ in range(2)]

        assert [run.returncode for run in runs] == [0, 0], runs
        client = await Client.connect(address, namespace="fresh")
        assert await client.count_workflows() is not None


def test_the_schema_job_prepares_both_databases(tmp_path: Path) -> None:
    """The job creates and updates both databases from the schema of its own image, and stops at the first failure."""
    calls = tmp_path / "calls"
    tool = tmp_path / "temporal-sql-tool"
    tool.write_text(f'#!/bin/sh\necho "$*" >> {shlex.quote(str(calls))}\n')
    tool.chmod(0o755)
    job = ["/bin/sh", str(ROOT / "deploy/temporal/schema.sh")]

    ran = run_job(job, {"PATH": f"{tmp_path}:{os.environ['PATH']}"})

    assert ran.returncode == 0, ran.stderr
    schema = "/etc/temporal/schema/postgresql/v12"
    assert calls.read_text().splitlines() == [
        "--database temporal create-database",
        "--database temporal setup-schema -v 0.0",
        f"--database temporal update-schema -d {schema}/temporal/versioned",
        "--database temporal_visibility create-database",
        "--database temporal_visibility setup-schema -v 0.0",
        f"--database temporal_visibility update-schema -d {schema}/visibility/versioned",
    ]
