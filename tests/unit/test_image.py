"""The Dockerfile, checked for what a build without Docker at hand can still get wrong."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Instruction:
    """One instruction, with its continuation lines joined."""

    keyword: str
    value: str


def read_stages() -> dict[str, list[Instruction]]:
    """Return the instructions of each build stage."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    stages: dict[str, list[Instruction]] = {}
    stage = ""
    for line in text.replace("\\\n", " ").splitlines():
        keyword, _, value = line.strip().partition(" ")
        if keyword == "FROM":
            stage = value.split(" AS ")[1]
        if keyword and stage:
            stages.setdefault(stage, []).append(Instruction(keyword, value.strip()))
    return stages


def values(stage: str, keyword: str) -> list[str]:
    return [instruction.value for instruction in read_stages()[stage] if instruction.keyword == keyword]


def copied_paths() -> list[str]:
    """Return the paths of the repository that the image is built from."""
    copies = [shlex.split(value) for stage in read_stages() for value in values(stage, "COPY")]
    return [path for copy in copies if not copy[0].startswith("--from") for path in copy[:-1]]


def pins(lock: str) -> dict[str, str]:
    """Return the version of each package in a lock file."""
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", (ROOT / lock).read_text(), flags=re.MULTILINE))


def test_every_copied_path_exists() -> None:
    """What the image copies is in the repository."""
    paths = copied_paths()

    assert {"pyproject.toml", "perdure", "workers"} <= set(paths)
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_build_context_holds_what_is_copied() -> None:
    """`.dockerignore` lets through what the image copies, and nothing beside it."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()

    let_through = {line.removeprefix("!") for line in lines if line.startswith("!")}

    assert "*" in lines
    assert let_through == set(copied_paths())


def test_secrets_and_tests_stay_out_of_the_build_context() -> None:
    """Environment files, repositories, caches and tests inside a copied folder are not sent to the builder."""
    excluded = [line.removeprefix("**/") for line in (ROOT / ".dockerignore").read_text().splitlines()]

    for name in (".env", ".git", "__pycache__", "tests", "shop.db"):
        assert any(fnmatch(name, pattern) for pattern in excluded if pattern != "*"), name


@pytest.mark.parametrize("stage", ["runtime", "support-desk"])
def test_the_image_does_not_run_as_root(stage: str) -> None:
    """The last user is a number, which Kubernetes can check, and not root."""
    user = values(stage, "USER")[-1]

    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user)


def test_the_entrypoint_gets_signals_itself() -> None:
    """The program is started without a shell, so that a stop reaches it and a worker can drain."""
    assert json.loads(values("runtime", "ENTRYPOINT")[-1]) == ["perdure"]
    assert json.loads(values("runtime", "CMD")[-1]) == ["--help"]


def test_nothing_is_fetched_but_locked_packages() -> None:
    """No instruction fetches a file, and each package that is installed has a hash or was built right here."""
    runs = [run for stage in read_stages() for run in values(stage, "RUN")]
    installs = re.findall(r"pip install ([^&]*)", " ".join(runs))

    assert not any(values(stage, "ADD") for stage in read_stages())
    assert installs
    assert all("--require-hashes" in install or "--no-index" in install for install in installs)


def test_the_image_has_the_versions_that_are_tested() -> None:
    """The image's lock files are a part of the one that the tests run with, and include the core's dependencies."""
    tested, runtime, build = (
        pins(lock)
        for lock in ("requirements.lock", "deploy/requirements-runtime.lock", "deploy/requirements-build.lock")
    )

    assert {"temporalio", "anthropic", "openai", "fastapi"} <= set(runtime)
    assert "hatchling" in build
    assert runtime.items() <= tested.items()
    assert build.items() <= tested.items()


def test_the_cluster_builds_a_stage_that_exists() -> None:
    """The compose file's build target is a stage of the Dockerfile."""
    compose = yaml.safe_load((ROOT / "docker-compose.temporal.yml").read_text())

    targets = {service["build"]["target"] for service in compose["services"].values() if "build" in service}

    assert targets
    assert targets <= set(read_stages())
