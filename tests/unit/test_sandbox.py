"""The sandbox is not entered for a payload's context, unless somebody asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from temporalio.api.common.v1 import Payload
from temporalio.converter import PayloadCodec, WithSerializationContext
from temporalio.worker import UnsandboxedWorkflowRunner

from perdure.codec import data_converter
from perdure_workers.sandbox import strict, without_contexts


class ContextualCodec(PayloadCodec, WithSerializationContext):
    """A codec that asks whose payloads it gets, as one with a key for each run does."""

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Leave them."""
        return list(payloads)

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Leave them."""
        return list(payloads)


def test_sandbox_is_spared_for_our_codec() -> None:
    """Perdure's own codec asks for no context, so that workers do not enter the sandbox to find it."""
    runner = strict()

    spared = without_contexts(runner, data_converter())

    assert type(spared) is not type(runner)


def test_contextual_codec_keeps_the_sandbox() -> None:
    """A user's codec that asks for the context of a payload is told it."""
    runner = strict()

    kept = without_contexts(runner, replace(data_converter(), payload_codec=ContextualCodec()))

    assert kept is runner


def test_other_runners_stay() -> None:
    """A runner that the user has chosen is left alone."""
    runner = UnsandboxedWorkflowRunner()

    assert without_contexts(strict(runner), data_converter()) is runner
