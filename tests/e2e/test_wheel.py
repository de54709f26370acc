"""The wheel, installed as users install it: beside a distribution and a project that both own the name `workflows`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from temporalio.client import Client

ROOT = Path(__file__).parents[2]
PACKAGES = {"perdure", "perdure_activities", "perdure_api", "perdure_workers", "perdure_workflows"}
NAMESAKE = "llama-index-workflows==2.26.1"
"""A distribution in wide use whose import name is `workflows`."""

IMPORT_ALL = """
    import json, sys
    {imports}
    print(json.dumps({{name: sys.modules[name].__file__ for name in {names!r}}}))
"""

RUN_NAMESAKE = """
    import asyncio
    import perdure, perdure_workflows.agent_run
    from workflows import Workflow, step
    from workflows.events import StartEvent, StopEvent

    class Echo(Workflow):
        @step
        async def echo(self, event: StartEvent) -> StopEvent:
            return StopEvent(result=event.word)

    async def main() -> str:
        return await Echo(timeout=10).run(word="theirs")

    print(asyncio.run(main()))
"""

USER_PROJECT = {
    "agents.py": """
        from perdure import Agent, App

        app = App()

        @app.tool(effect="read")
        async def find_order(order_id: str) -> str:
            "Find an order."
            return order_id

        app.add(Agent(name="support", version="1", model="anthropic:any", instructions="Help.", tools=["find_order"]))
    """,
    "workflows/__init__.py": '"""The user\'s own workflows."""',
    "workflows/greeting.py": """
        from temporalio import workflow

        @workflow.defn
        class Greeting:
            @workflow.run
            async def run(self, name: str) -> str:
                return f"hello {name}"
    """,
    "serve.py": """
        import asyncio, os, sys
        from temporalio.client import Client
        from temporalio.worker import Worker
        from perdure_workers.plugin import Perdure
        from agents import app
        from workflows.greeting import Greeting

        async def main(address: str, namespace: str) -> None:
            client = await Client.connect(address, namespace=namespace, plugins=[Perdure(app)])
            async with Worker(client, task_queue="users-own", workflows=[Greeting]):
                print(await client.execute_workflow(Greeting.run, "ann", id="greeting", task_queue="users-own"))

        if __name__ == "__main__":
            asyncio.run(main(*sys.argv[1:]))
            sys.stdout.flush()
            os._exit(0)
    """,
}


@dataclass(frozen=True)
class Installation:
    """A virtual environment with the wheel and the namesake in it, and nothing of this repository."""

    bin: Path
    folder: Path

    def run(self, program: str, *arguments: str, cwd: Path | None = None) -> str:
        """Run a program of the environment and return what it printed."""
        ran = subprocess.run(
            [self.bin / program, *arguments],
            cwd=cwd or self.folder,
            env={"PATH": f"{self.bin}:{os.environ['PATH']}", "HOME": str(self.folder)},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert ran.returncode == 0, f"{program} {arguments} ended with {ran.returncode}:\n{ran.stdout}{ran.stderr}"
        return ran.stdout


def uv(*arguments: str | Path) -> None:
    """Run the uv of the development environment."""
    program = shutil.which("uv", path=sysconfig.get_path("scripts"))
    assert program, "uv is not installed; 'make setup' installs it"
    environment = {**os.environ, "UV_SYSTEM_CERTS": "1"}
    ran = subprocess.run(
        [program, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert ran.returncode == 0, ran.stderr


def build(source: Path, target: str, folder: Path) -> Path:
    """Build one distribution and return its file."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", folder],
        cwd=source,
        check=True,
        capture_output=True,
    )
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installation(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    folder = tmp_path_factory.mktemp("installation")
    uv("venv", "--python", sys.executable, folder / "venv")
    python = folder / "venv" / "bin" / "python"
    uv("pip", "install", "--python", python, "--constraint", ROOT / "deploy/requirements-runtime.lock", wheel, NAMESAKE)
    return Installation(bin=python.parent, folder=folder)


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def write(files: dict[str, str], folder: Path) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))


def test_the_wheel_holds_our_packages_and_nothing_else(wheel: Path) -> None:
    """No test, example or plain name like `workflows` comes along, and every package brings its types."""
    names = names_in(wheel)

    top = {name.split("/")[0] for name in names}

    assert top == PACKAGES | {"perdure-0.1.0.dist-info"}
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert not [name for name in names if "test_" in name or name.endswith((".pyc", ".db", "ruff.toml"))]


def test_the_wheel_of_the_source_distribution_is_the_same(wheel: Path, tmp_path: Path) -> None:
    """Who builds from the source distribution gets the files that the wheel has."""
    archive = build(ROOT, "sdist", tmp_path / "sdist")
    subprocess.run(["tar", "--extract", "--file", archive, "--directory", archive.parent], check=True)
    (source,) = (path for path in archive.parent.iterdir() if path.is_dir())

    rebuilt = build(source, "wheel", tmp_path / "rebuilt")

    assert names_in(rebuilt) == names_in(wheel)


@pytest.mark.e2e
def test_imports_come_from_the_installed_packages(installation: Installation) -> None:
    """Our five packages import from the wheel, and `workflows` stays the other distribution's."""
    names = sorted(PACKAGES | {"workflows"})
    script = IMPORT_ALL.format(imports="import " + ", ".join(names), names=names)

    files: dict[str, str] = json.loads(installation.run("python", "-c", textwrap.dedent(script)))

    assert set(files) == set(names)
    assert all(Path(file).is_relative_to(installation.folder) for file in files.values())


@pytest.mark.e2e
def test_the_namesake_works_beside_us(installation: Installation) -> None:
    """A workflow of the other distribution runs to its end in a process that has ours imported."""
    printed = installation.run("python", "-c", textwrap.dedent(RUN_NAMESAKE))

    assert printed.strip() == "theirs"


@pytest.mark.e2e
def test_the_command_is_installed(installation: Installation) -> None:
    """`perdure` starts with nothing but what the wheel depends on."""
    printed = installation.run("perdure", "--help")

    for command in ("dev", "worker", "api", "replay"):
        assert command in printed


@pytest.mark.e2e
def test_a_project_with_its_own_workflows_folder_is_served(
    installation: Installation, client: Client, tmp_path: Path
) -> None:
    """A user's worker runs a workflow of the user's own `workflows` folder and has the sandbox accept ours."""
    write(USER_PROJECT, tmp_path)
    address = client.service_client.config.target_host

    printed = installation.run("python", "serve.py", address, client.namespace, cwd=tmp_path)

    assert printed.strip() == "hello ann"
