"""The workflow sandbox as Perdure runs it: strict about imports, and not entered where that changes nothing."""

from __future__ import annotations

from dataclasses import replace

from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.converter import DataConverter, StorageDriverStoreContext, WithSerializationContext
from temporalio.worker import WorkflowInstance, WorkflowInstanceDetails, WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions
from temporalio.workflow import Info, SandboxImportNotificationPolicy


def strict(runner: WorkflowRunner | None = None) -> WorkflowRunner:
    """Have the sandbox refuse imports that workflow code did not declare; other runners stay as they are."""
    if runner is not None and not isinstance(runner, SandboxedWorkflowRunner):
        return runner
    restrictions = runner.restrictions if runner is not None else SandboxRestrictions.default
    return SandboxedWorkflowRunner(
        restrictions=replace(
            restrictions,
            import_notification_policy=SandboxImportNotificationPolicy.RAISE_ON_UNINTENTIONAL_PASSTHROUGH,
        )
    )


def without_contexts(runner: WorkflowRunner, converter: DataConverter) -> WorkflowRunner:
    """Spare a sandbox from telling a payload's context to a converter that does not ask for it.

    The SDK enters the sandbox some twenty times a turn for that, a quarter of the worker's CPU.
    """
    codec: object = converter.payload_codec
    asks = isinstance(codec, WithSerializationContext) or converter.external_storage is not None
    if asks or type(runner) is not SandboxedWorkflowRunner:
        return runner
    return _ContextFreeRunner(restrictions=runner.restrictions, runner_class=runner.runner_class)


class _ContextFreeRunner(SandboxedWorkflowRunner):
    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        return _ContextFree(super().create_instance(det))


class _ContextFree(WorkflowInstance):
    """A workflow in its sandbox, whose payloads have no context."""

    def __init__(self, inner: WorkflowInstance) -> None:
        self._inner = inner

    def activate(self, act: WorkflowActivation) -> WorkflowActivationCompletion:
        return self._inner.activate(act)

    def get_serialization_context(self, command_info: object) -> None:
        del command_info

    def get_external_store_context(self, command_info: object) -> StorageDriverStoreContext:
        del command_info
        return StorageDriverStoreContext(target=None)

    def get_info(self) -> Info:
        return self._inner.get_info()

    def get_thread_id(self) -> int | None:
        return self._inner.get_thread_id()
