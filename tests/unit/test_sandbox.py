"""The sandbox is not entered for a payload's context, unless somebody asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.converter import PayloadCodec, WithSerializationContext
from temporalio.worker import UnsandboxedWorkflowRunner, WorkflowInstance
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions
from temporalio.workflow import SandboxImportNotificationPolicy

from perdure.codec import data_converter
from perdure.encryption import Keyring, new_key
from perdure_workers.sandbox import strict, without_contexts


class ContextualCodec(PayloadCodec, WithSerializationContext):
    """A codec that asks whose payloads it gets, as one with a key for each run does."""

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Leave them."""
        return list(payloads)

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Leave them."""
        return list(payloads)


class LaterInstance:
    """A workflow in the sandbox of some later SDK, which has more to it than today's."""

    def get_serialization_context(self, command_info: object) -> object:
        """Stand for the way into the sandbox."""
        raise AssertionError("the sandbox was entered")

    def get_later(self) -> str:
        """Stand for what later SDKs ask of an instance."""
        return "later"


@pytest.mark.parametrize("keyring", [None, Keyring({"k1": new_key()})], ids=["plain", "encrypted"])
def test_sandbox_is_spared_for_our_codec(monkeypatch: pytest.MonkeyPatch, keyring: Keyring | None) -> None:
    """Workers do not enter the sandbox for a context that Perdure's codec does not ask for; all else is the SDK's."""
    monkeypatch.setattr(SandboxedWorkflowRunner, "create_instance", lambda *_: LaterInstance())
    details: Any = None

    instance: Any = without_contexts(strict(), data_converter(keyring=keyring)).create_instance(details)

    assert instance.get_serialization_context(None) is None
    assert instance.get_later() == "later"


def test_sandbox_of_today_has_what_is_spared() -> None:
    """Today's SDK asks an instance by these names; under others nothing would be spared."""
    asked = {"get_serialization_context", "get_external_store_context"}

    assert asked <= set(vars(WorkflowInstance))


def test_spared_sandbox_keeps_the_users_settings() -> None:
    """Restrictions and whatever else a runner was given stay."""
    runner = SandboxedWorkflowRunner(restrictions=SandboxRestrictions.default.with_passthrough_modules("numpy"))

    spared = without_contexts(strict(runner), data_converter())

    assert isinstance(spared, SandboxedWorkflowRunner)
    assert "numpy" in spared.restrictions.passthrough_modules


def test_runner_of_the_users_own_kind_is_made_strict_and_stays() -> None:
    """A sandbox that a user has extended keeps what was added to it."""

    class Extended(SandboxedWorkflowRunner):
        """A sandbox with something added."""

    runner = without_contexts(strict(Extended()), data_converter())

    assert isinstance(runner, Extended)
    assert (
        runner.restrictions.import_notification_policy
        == SandboxImportNotificationPolicy.RAISE_ON_UNINTENTIONAL_PASSTHROUGH
    )


def test_contextual_codec_keeps_the_sandbox() -> None:
    """A user's codec that asks for the context of a payload is told it."""
    runner = strict()

    kept = without_contexts(runner, replace(data_converter(), payload_codec=ContextualCodec()))

    assert kept is runner


def test_other_runners_stay() -> None:
    """A runner that the user has chosen is left alone."""
    runner = UnsandboxedWorkflowRunner()

    assert without_contexts(strict(runner), data_converter()) is runner
