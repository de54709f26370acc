"""The command line as a program: its help, its errors in one line, its exit codes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from perdure_workers.ports import LOOPBACK, free_port

HEAVY = ("temporalio", "fastapi", "uvicorn", "anthropic", "openai")


def perdure(*arguments: str, folder: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does: as a process."""
    return subprocess.run(
        [sys.executable, "-m", "perdure_workers.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder,
        env={**os.environ, **variables},
    )


def test_version_is_the_distributions() -> None:
    """`--version` prints the installed version and succeeds."""
    ended = perdure("--version")

    assert (ended.returncode, ended.stdout) == (0, f"perdure {version('perdure')}\n")


@pytest.mark.parametrize(
    "command", ["--help", "run --help", "runs list --help", "approvals approve --help", "keys create --help"]
)
def test_help_succeeds_and_imports_nothing_heavy(command: str) -> None:
    """Help comes at once: no server SDK, web framework or model SDK is loaded for it."""
    code = (
        "import sys\n"
        "from perdure_workers.cli import application\n"
        "try: application(sys.argv[1:])\n"
        "except SystemExit as ending: assert ending.code == 0\n"
        f"loaded = set({HEAVY!r}) & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )

    ended = subprocess.run([sys.executable, "-c", code, *command.split()], capture_output=True, text=True)

    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("command", ["nonsense", "runs nonsense", "run", "dev --port 99999", "run a b --nonsense"])
def test_a_wrong_command_line_exits_with_2(command: str) -> None:
    """Whatever cannot be understood is a usage error, on standard error."""
    ended = perdure(*command.split())

    assert (ended.returncode, ended.stdout) == (2, "")
    assert "Usage" in ended.stderr


def test_an_app_that_is_not_there_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    """A mistake of the user is a sentence, not a traceback."""
    ended = perdure("worker", "--app", "no_such_module:app", folder=tmp_path)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("perdure: app 'no_such_module:app': there is no module 'no_such_module'")
    assert len(ended.stderr.splitlines()) == 1


def test_debug_adds_the_traceback(tmp_path: Path) -> None:
    """At log level debug an error also says where it came from."""
    ended = perdure("worker", "--app", "no_such_module:app", folder=tmp_path, PERDURE_LOG_LEVEL="debug")

    assert ended.returncode == 2
    assert "Traceback" in ended.stderr


def test_a_wrong_setting_is_named_by_its_variable() -> None:
    """A setting that cannot work stops the command and is named as the user wrote it."""
    ended = perdure("worker", PERDURE_TASK_QUEUE="")

    assert ended.returncode == 2
    assert "PERDURE_TASK_QUEUE" in ended.stderr


APP = ("--app", "support_desk")


@pytest.mark.parametrize(
    ("command", "variables"),
    [
        ("worker --app support_desk", {"TEMPORAL_CONFIG_FILE": "broken.toml"}),
        ("api --app support_desk --port 0", {"TEMPORAL_CONFIG_FILE": "whole.toml", "TEMPORAL_PROFILE": "nowhere"}),
        ("runs list", {"TEMPORAL_TLS_CLIENT_CERT_PATH": "no.pem", "TEMPORAL_TLS_CLIENT_KEY_PATH": "no.pem"}),
    ],
    ids=["file", "profile", "certificate"],
)
def test_a_broken_temporal_configuration_stops_every_command(
    tmp_path: Path, command: str, variables: dict[str, str]
) -> None:
    """Temporal's own configuration is the user's too: what is wrong in it is a sentence and exit code 2."""
    (tmp_path / "broken.toml").write_text("no toml [")
    (tmp_path / "whole.toml").write_text('[profile.default]\naddress = "127.0.0.1:1"\n')

    ended = perdure(*command.split(), folder=tmp_path, **variables)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("perdure: Temporal's client configuration cannot be used")
    assert "Traceback" not in ended.stderr


def test_an_address_that_can_be_none_is_refused() -> None:
    """A mistyped address of the Temporal server is named."""
    ended = perdure("runs", "list", "--address", "a b:7233")

    assert ended.returncode == 2
    assert "a b:7233" in ended.stderr


def test_an_api_that_asks_nobody_serves_loopback_only() -> None:
    """An open API is never put on a network, and the line says what would be right."""
    ended = perdure("api", *APP, "--host", "0.0.0.0", "--port", "0", PERDURE_AUTH="open")

    assert (ended.returncode, ended.stdout) == (2, "")
    assert "PERDURE_AUTH=required" in ended.stderr
    assert "perdure keys create" in ended.stderr


@pytest.mark.parametrize("value", ["", "no", "OPEN"])
def test_a_mistyped_auth_opens_nothing(tmp_path: Path, value: str) -> None:
    """A variable that was left empty, or says something else, stops the command."""
    by_variable = perdure("api", *APP, "--port", "0", PERDURE_AUTH=value)
    (tmp_path / "perdure.toml").write_text(f'auth = "{value}"\n')
    by_file = perdure("api", *APP, "--port", "0", folder=tmp_path)

    assert (by_variable.returncode, by_file.returncode) == (2, 2)
    assert "PERDURE_AUTH" in by_variable.stderr
    assert "PERDURE_AUTH" in by_file.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--name shop", "--org ORG, or --all-orgs"),
        ("--name shop --org acme --all-orgs", "--org ORG, or --all-orgs"),
        ("--name shop --org acme --scope runs:fly", "--scope 'runs:fly': Input should be 'runs:read'"),
        ("--name shop --org acme --expires soon", "--expires 'soon': write a time such as 90d"),
        ("--name shop --org acme --expires 0d", "--expires '0d': write a time such as 90d"),
        ("--name shop --org acme --expires 4000d", "--expires '4000d': write a time such as 90d"),
        ('--name shop --org a"b', "--org 'a\"b': runs cannot be found by it"),
    ],
)
def test_a_key_that_cannot_be_is_refused_before_a_server_is_asked(options: str, said: str) -> None:
    """A key of all organisations has to be asked for, and every mistake names its option."""
    ended = perdure("keys", "create", *options.split(), "--address", f"{LOOPBACK}:{free_port()}")

    assert (ended.returncode, ended.stdout) == (2, "")
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_an_api_whose_port_is_taken_says_which_flag_chooses_another() -> None:
    """A taken port is a sentence, not a traceback."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        taken = listener.getsockname()[1]

        ended = perdure("api", *APP, "--port", str(taken))

    assert ended.returncode == 2
    assert f"cannot listen on port {taken}" in ended.stderr
    assert "--port PORT" in ended.stderr


@pytest.mark.parametrize(
    "command",
    [
        "runs list",
        "runs watch r1",
        "approvals list",
        "approvals approve r1 a1",
        "replay r1",
        "keys create --name shop --org acme",
        "keys list",
        "keys revoke k1 --reason lost",
    ],
)
def test_without_a_server_every_command_says_so_and_exits_with_2(command: str) -> None:
    """A server that does not answer is one line that says where it was looked for and how to start one."""
    address = f"{LOOPBACK}:{free_port()}"

    ended = perdure(*command.split(), "--address", address)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert f"no Temporal server answers at {address}: Connection refused. Start one with" in ended.stderr
    assert "perdure dev" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_reader_that_leaves_causes_no_traceback() -> None:
    """`perdure … | head` ends quietly."""
    command = f"{sys.executable} -m perdure_workers.cli run --help | head -c 1"

    ended = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)

    assert (len(ended.stdout), ended.stderr) == (1, "")
