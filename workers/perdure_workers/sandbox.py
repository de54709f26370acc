"""The workflow sandbox as Perdure runs it: strict about imports, and not entered where that changes nothing."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Final

from temporalio.converter import DataConverter, StorageDriverStoreContext, WithSerializationContext
from temporalio.worker import WorkflowInstance, WorkflowInstanceDetails, WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner
from temporalio.workflow import SandboxImportNotificationPolicy


def strict(runner: WorkflowRunner | None = None) -> WorkflowRunner:
    """Have the sandbox refuse imports that workflow code did not declare; other runners stay as they are."""
    if runner is not None and not isinstance(runner, SandboxedWorkflowRunner):
        return runner
    runner = runner or SandboxedWorkflowRunner()
    return replace(
        runner,
        restrictions=replace(
            runner.restrictions,
            import_notification_policy=SandboxImportNotificationPolicy.RAISE_ON_UNINTENTIONAL_PASSTHROUGH,
        ),
    )


def without_contexts(runner: WorkflowRunner, converter: DataConverter) -> WorkflowRunner:
    """Spare a sandbox from telling a payload's context to a converter that does not ask for it.

    The SDK enters the sandbox some twenty times a turn for that, a quarter of the worker's CPU.
    """
    codec: object = converter.payload_codec
    asks = isinstance(codec, WithSerializationContext) or converter.external_storage is not None
    if asks or type(runner) is not SandboxedWorkflowRunner:
        return runner
    given = {field.name: getattr(runner, field.name) for field in fields(runner) if field.init}
    return _ContextFreeRunner(**given)


class _ContextFreeRunner(SandboxedWorkflowRunner):
    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        """Create the SDK's own instance, which answers two questions by itself instead of in the sandbox."""
        instance = super().create_instance(det)
        # Set on the instance, as a wrapper would have to know all that an SDK asks of one. An SDK that asks by other
        # names never calls these, and only the time is lost.
        for name, answer in _ANSWERS.items():
            setattr(instance, name, answer)
        return instance


def _no_serialization_context(*_: object) -> None:
    return None


def _no_store_context(*_: object) -> StorageDriverStoreContext:
    return StorageDriverStoreContext(target=None)


_ANSWERS: Final = {
    "get_serialization_context": _no_serialization_context,
    "get_external_store_context": _no_store_context,
}
