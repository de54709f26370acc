"""What the repository promises about itself: its files, its lock, its documentation, its names."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
from packaging.requirements import Requirement
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from perdure.rate_limits import Act, RateLimits
from perdure.settings import Oidc, Settings

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "deploy/requirements-runtime.lock", "deploy/requirements-build.lock")
MANDATED = (
    ".ci/run",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Dockerfile",
    "LICENSE",
    "Makefile",
    "README.md",
    "activities/perdure_activities/py.typed",
    "api/perdure_api/py.typed",
    "docker-compose.temporal.yml",
    "docs/architecture.md",
    "docs/deployment.md",
    "docs/settings.md",
    "examples/support_desk/pyproject.toml",
    "perdure/py.typed",
    "pyproject.toml",
    "requirements.lock",
    "workers/perdure_workers/py.typed",
    "workflows/perdure_workflows/py.typed",
    "workflows/ruff.toml",
)
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "base", "core", "misc"}
SOURCE_ROOTS = ("workflows", "activities", "api", "workers")
# Each is split, so that this file does not hold what it looks for.
REGISTRIES = ("pypi" + ".org", "pythonhosted" + ".org", "npmjs" + ".org", "npmjs" + ".com", "extra-index" + "-url")
HOME_PATH = re.compile(r"(?<![\w.:/$}-])/(?:home|Users|work|root)/\w")


@cache
def tracked_files() -> tuple[Path, ...]:
    """Return the files under version control, so that a build's leftovers are not judged."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = tuple(path for name in listed.split("\0") if name and (path := ROOT / name).is_file())
    assert len(files) > 30, "git lists hardly any file"
    return files


def named(paths: Iterator[Path] | list[Path]) -> list[str]:
    """Return the paths as they are written in the repository."""
    return sorted(str(path.relative_to(ROOT)) for path in paths)


def modules() -> list[Path]:
    return [path for path in tracked_files() if path.suffix == ".py"]


def text_files() -> list[tuple[Path, str]]:
    """Return the tracked files that are text, with their text."""
    return [(path, path.read_bytes().decode(errors="ignore")) for path in tracked_files()]


def requirements(lock: str) -> dict[str, list[str]]:
    """Return the lines of each package in a lock file: the pin, then its hashes."""
    entries = re.split(r"\n(?=\S)", (ROOT / lock).read_text().strip())
    return {entry.partition("==")[0]: entry.splitlines() for entry in entries if not entry.startswith("#")}


def test_mandated_files_are_there() -> None:
    """A reader finds the documents and entry points that every checkout has."""
    names = set(named(list(tracked_files())))

    assert [name for name in MANDATED if name not in names] == []


def test_no_file_names_a_registry() -> None:
    """Where packages come from is the machine's business: no tracked file has a registry's address."""
    found = [path for path, text in text_files() if any(registry in text for registry in REGISTRIES)]

    assert named(found) == []


def test_no_file_names_a_path_of_one_machine() -> None:
    """No tracked file has an absolute path that exists on its author's machine only."""
    found = [path for path, text in text_files() if HOME_PATH.search(text)]

    assert named(found) == []


def test_there_is_no_second_lock() -> None:
    """Lock formats that record registry addresses are not committed."""
    found = [path for path in tracked_files() if path.name in {"uv.lock", "pylock.toml", "poetry.lock", "Pipfile.lock"}]

    assert named(found) == []


@pytest.mark.parametrize("lock", LOCKS)
def test_locked_packages_have_a_version_and_hashes(lock: str) -> None:
    """Each package is pinned to one version and to the files that were seen, and comes from no address."""
    locked = requirements(lock)

    assert locked
    assert "://" not in (ROOT / lock).read_text()
    for package, (pin, *hashes) in locked.items():
        assert re.match(r"[a-z0-9-]+==\S+", pin), package
        assert hashes, package
        assert all(re.fullmatch(r" +--hash=sha256:[0-9a-f]{64}( \\)?", line) for line in hashes), package


def test_the_lock_is_up_to_date() -> None:
    """Each dependency of core, extras and development group is locked at a version that it allows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = [
        *project["project"]["dependencies"],
        *(entry for extra in project["project"]["optional-dependencies"].values() for entry in extra),
        *project["dependency-groups"]["dev"],
    ]
    versions = {name: re.split(r"==|[ ;]", lines[0])[1] for name, lines in requirements("requirements.lock").items()}

    for requirement in map(Requirement, declared):
        assert requirement.name in versions, f"{requirement.name} is not locked; run 'make lock'"
        assert requirement.specifier.contains(versions[requirement.name], prereleases=True), requirement.name


def test_every_module_says_what_it_owns() -> None:
    """Each module begins with a docstring."""
    silent = [path for path in modules() if ast.get_docstring(ast.parse(path.read_text())) is None]

    assert named(silent) == []


def test_every_test_states_its_promise() -> None:
    """Each test has a docstring, so that a failing one says what was broken."""
    silent = [
        f"{path.relative_to(ROOT)}::{node.name}"
        for path in modules()
        if path.name.startswith("test_")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and ast.get_docstring(node) is None
    ]

    assert silent == []


def test_files_are_named_by_what_they_are() -> None:
    """No module or folder has a name under which anything could be found."""
    vague = [path for path in modules() if VAGUE_NAMES & {part.removesuffix(".py") for part in path.parts}]

    assert named(vague) == []


@pytest.mark.parametrize("folder", SOURCE_ROOTS)
def test_a_source_root_is_not_a_package(folder: str) -> None:
    """The plain names belong to other distributions and to users: each root holds one package of ours, no module."""
    inside = {path.relative_to(ROOT / folder).parts for path in modules() if path.is_relative_to(ROOT / folder)}

    assert {parts[0] for parts in inside} == {f"perdure_{folder}"}


def test_the_ci_script_runs_what_the_readme_says() -> None:
    """The README's test command is the one that CI runs."""
    command = "make test"

    assert command in (ROOT / "README.md").read_text()
    assert command in (ROOT / ".ci/run").read_text().splitlines()


def test_every_make_target_explains_itself() -> None:
    """`make help` lists each target."""
    makefile = (ROOT / "Makefile").read_text()
    declared = re.search(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
    assert declared

    helped = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert re.findall(r"^  make (\w+)", helped, flags=re.MULTILINE) != []
    assert set(re.findall(r"^  make (\w+)", helped, flags=re.MULTILINE)) == set(declared[1].split())


def test_settings_are_documented() -> None:
    """The table in docs/settings.md has every setting with its default, and no other."""
    rows = re.findall(r"^\| `(PERDURE_\w+)` \| (.*?) \|", (ROOT / "docs/settings.md").read_text(), flags=re.MULTILINE)

    settings = {f"PERDURE_{name.upper()}": field for name, field in Settings.model_fields.items()}
    parts = {f"PERDURE_OIDC__{name.upper()}": field for name, field in Oidc.model_fields.items()}
    assert not any(field.is_required() for field in settings.values()), "a setting without a default is always needed"
    defaults = {name: written_default(field) for name, field in (settings | parts).items()}

    assert dict(rows) == defaults
    assert len(rows) == len(defaults)


def test_limits_of_requests_are_documented() -> None:
    """The page has each limit with its default."""
    page = (ROOT / "docs/settings.md").read_text()
    rows = re.findall(r"^\| `(read|write|decision)`: .*? \| (.*?) \| (.*?) \| (.*?) \|$", page, flags=re.MULTILINE)

    limits = {act: RateLimits().allowance(act) for act in get_args(Act)}

    assert {act: rates for act, *rates in rows} == {
        act: [str(allowance.key), str(allowance.user), str(allowance.org)] for act, allowance in limits.items()
    }


def written_default(field: FieldInfo) -> str:
    """Return a default as the table has it."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "not set"
    if isinstance(value, BaseModel):
        return "see below"
    return f"`{value}`" if value not in ({}, ()) else "none"
