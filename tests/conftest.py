"""Fixtures of all tests: one real Temporal server whose runs' clocks can be moved."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import pytest
from temporalio.client import Client
from temporalio.testing import TimeSkippingConfig, WorkflowEnvironment

from perdure.codec import data_converter
from perdure_workers.dev_server import find_temporal, server_arguments
from tests.audit_stores import s3_double


@pytest.fixture(scope="session", autouse=True)
def plain_environment() -> Iterator[None]:
    """No test or fixture depends on the settings or keys of whoever runs it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("PERDURE_", "TEMPORAL_", "ANTHROPIC_", "OPENAI_", "SUPPORT_DESK_")):
                patch.delenv(name)
        yield


@pytest.fixture(scope="session")
async def env() -> AsyncIterator[WorkflowEnvironment]:
    """A Temporal server; time stands still for a run until `env.fast_forward(handle, …)` moves it."""
    async with await WorkflowEnvironment.start_time_skipping_v2(
        ts_config=TimeSkippingConfig(enabled=False),
        dev_server_existing_path=find_temporal(),
        dev_server_extra_args=server_arguments(time_skipping=True),
        dev_server_log_level="error",
        data_converter=data_converter(),
    ) as environment:
        yield environment


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """Address of an S3 double."""
    with s3_double() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def client(env: WorkflowEnvironment) -> Client:
    """A client of that server."""
    return env.client
