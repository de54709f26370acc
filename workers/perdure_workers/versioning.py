"""A worker as a version of a Temporal worker deployment: which one it is, and which workflows stay with theirs.

A run is pinned to the build that it began with. All other workflows of ours live for as long as an organisation, a key
or a schedule does, so they go on with whichever build is current.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Any

from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.worker import WorkerDeploymentConfig, WorkflowInstance, WorkflowInstanceDetails, WorkflowRunner

from perdure.errors import SettingsError
from perdure.settings import Settings


def deployment_of(settings: Settings) -> WorkerDeploymentConfig | None:
    """Return the version that a worker with these settings is; None if workers are not versioned.

    Raises:
        SettingsError: Only half of it is set.
    """
    match settings.deployment_name, settings.build_id:
        case None, None:
            return None
        case str(name), str(build_id):
            return WorkerDeploymentConfig(
                version=WorkerDeploymentVersion(deployment_name=name, build_id=build_id),
                use_worker_versioning=True,
                default_versioning_behavior=VersioningBehavior.PINNED,
            )
    raise SettingsError(
        "a worker is versioned by PERDURE_DEPLOYMENT_NAME and PERDURE_BUILD_ID together, and one of them is missing: "
        "set both, or neither"
    )


class Upgrading(WorkflowRunner):
    """Runs workflows of some classes so that each of their tasks goes to the current version, and others as they are.

    The server refuses the work of an unversioned worker whose workflows say how they are versioned, as classes do by
    `@workflow.defn(versioning_behavior=…)`. So it is said here, by versioned workers only.
    """

    def __init__(self, runner: WorkflowRunner, classes: Set[type]) -> None:
        """Wrap a runner.

        Args:
            runner: Creates the instances.
            classes: Of workflows that are not pinned.
        """
        self._runner = runner
        self._classes = classes

    def prepare_workflow(self, defn: Any) -> None:  # the SDK's type is its own
        """Have the runner prepare."""
        self._runner.prepare_workflow(defn)

    def set_worker_level_failure_exception_types(self, types: Any) -> None:  # as above
        """Tell the runner."""
        self._runner.set_worker_level_failure_exception_types(types)

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        """Have the runner create an instance, and let it say what becomes of its next tasks."""
        instance = self._runner.create_instance(det)
        if det.defn.cls in self._classes:
            instance.activate = _upgrading(instance.activate)  # type: ignore[assignment,method-assign]  # of one instance
        return instance


Activate = Callable[[WorkflowActivation], WorkflowActivationCompletion]


def _upgrading(activate: Activate) -> Activate:
    def activated(act: WorkflowActivation) -> WorkflowActivationCompletion:
        completion = activate(act)
        if completion.HasField("successful"):
            completion.successful.versioning_behavior = VersioningBehavior.AUTO_UPGRADE.value
        return completion

    return activated
