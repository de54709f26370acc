"""Worker deployments as Temporal keeps them: their builds, which of these new runs go to, and runs moved to others."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.deployment.v1 import WorkerDeploymentInfo, WorkerDeploymentVersion
from temporalio.api.enums.v1 import RoutingConfigUpdateState, WorkerDeploymentVersionStatus
from temporalio.api.workflow.v1 import VersioningOverride, WorkflowExecutionOptions
from temporalio.api.workflowservice.v1 import (
    DescribeWorkerDeploymentRequest,
    DescribeWorkerDeploymentResponse,
    DescribeWorkerDeploymentVersionRequest,
    ListWorkerDeploymentsRequest,
    SetWorkerDeploymentCurrentVersionRequest,
    SetWorkerDeploymentRampingVersionRequest,
    UpdateWorkflowExecutionOptionsRequest,
)
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.common import SearchAttributeKey
from temporalio.service import RPCError, RPCStatusCode

from perdure.contracts import WORKFLOW_NAME
from perdure.errors import InvalidInputError, PerdureError
from perdure_api.rpc import RPC_TIMEOUT
from perdure_api.schemas import Answer

ROUTED_WITHIN: Final = timedelta(seconds=10)
"""A build is known a second or two after its first worker has begun to poll, and task queues learn of it as late."""
PAUSE: Final = 0.5

_VERSION: Final = SearchAttributeKey.for_keyword("TemporalWorkerDeploymentVersion")
"""What a run is pinned to, `deployment:build`, as visibility has it."""
QueueNames = tuple[tuple[str, int], ...]
BuildStatus = Literal["current", "ramping", "draining", "drained", "inactive"]
_STATUSES: Final[dict[WorkerDeploymentVersionStatus.ValueType, BuildStatus]] = {
    WorkerDeploymentVersionStatus.WORKER_DEPLOYMENT_VERSION_STATUS_CURRENT: "current",
    WorkerDeploymentVersionStatus.WORKER_DEPLOYMENT_VERSION_STATUS_RAMPING: "ramping",
    WorkerDeploymentVersionStatus.WORKER_DEPLOYMENT_VERSION_STATUS_DRAINING: "draining",
    WorkerDeploymentVersionStatus.WORKER_DEPLOYMENT_VERSION_STATUS_DRAINED: "drained",
}


class Build(Answer):
    """A build of a deployment."""

    build_id: str
    status: BuildStatus
    """`inactive` was never current; `draining` has runs that are pinned to it and open; `drained` has none."""
    percent: float
    """The part of new runs that go to it."""
    open_runs: int
    """Runs that are pinned to it and go on, as far as visibility knows."""
    created_at: datetime
    status_since: datetime | None


class Deployment(Answer):
    """A worker deployment."""

    name: str
    current: str | None
    """The build of new runs; None: they go to workers that are not versioned."""
    ramping: str | None
    builds: tuple[Build, ...]
    """The newest first."""

    def build(self, build_id: str) -> Build | None:
        """Return a build, if Temporal knows it."""
        return next((build for build in self.builds if build.build_id == build_id), None)


class PinnedRun(Answer):
    """An open run, and the build it is pinned to."""

    run_id: str
    build_id: str
    """Empty, if its workers are not versioned."""


class Deployments:
    """The deployments of a namespace."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._service = client.workflow_service

    async def list(self) -> list[Deployment]:
        """Return all deployments.

        Raises:
            RPCError: Temporal refuses, or does not answer.
        """
        names: list[str] = []
        token = b""
        while True:
            request = ListWorkerDeploymentsRequest(namespace=self._client.namespace, next_page_token=token)
            page = await self._service.list_worker_deployments(request, timeout=RPC_TIMEOUT)
            names += [one.name for one in page.worker_deployments]
            token = page.next_page_token
            if not token:
                return [await self.get(name) for name in sorted(names)]

    async def get(self, name: str) -> Deployment:
        """Return a deployment.

        Raises:
            InvalidInputError: There is none of that name.
            RPCError: Temporal refuses, or does not answer.
        """
        described = await self._describe(name)
        return await self._deployment(described.worker_deployment_info)

    async def set_current(self, name: str, build_id: str) -> None:
        """Have all new runs go to a build, and a ramp end; open runs stay where they are.

        Raises:
            InvalidInputError: No worker of that build has polled.
            RPCError: Temporal refuses, or does not answer.
        """
        request = SetWorkerDeploymentCurrentVersionRequest(
            namespace=self._client.namespace,
            deployment_name=name,
            build_id=build_id,
            identity=self._client.identity,
        )
        await self._route(
            name, build_id, lambda: self._service.set_worker_deployment_current_version(request, timeout=RPC_TIMEOUT)
        )

    async def ramp(self, name: str, build_id: str, *, percent: float) -> None:
        """Have a part of new runs go to a build; 0 ends the ramp.

        Raises:
            InvalidInputError: No worker of that build has polled.
            RPCError: Temporal refuses, or does not answer.
        """
        request = SetWorkerDeploymentRampingVersionRequest(
            namespace=self._client.namespace,
            deployment_name=name,
            build_id=build_id if percent else "",
            percentage=percent,
            identity=self._client.identity,
        )
        await self._route(
            name, build_id, lambda: self._service.set_worker_deployment_ramping_version(request, timeout=RPC_TIMEOUT)
        )

    async def open_runs(self, query: str) -> Sequence[PinnedRun]:
        """Return open runs, the newest first.

        Args:
            query: A list filter of Temporal's.

        Raises:
            RPCError: Temporal does not understand it, or does not answer.
        """
        running = f"WorkflowType = '{WORKFLOW_NAME}' AND ExecutionStatus = 'Running'"
        return [
            PinnedRun(run_id=row.id, build_id=(row.typed_search_attributes.get(_VERSION) or "").partition(":")[2])
            async for row in self._client.list_workflows(f"{running} AND ({query})", rpc_timeout=RPC_TIMEOUT)
            if row.status is WorkflowExecutionStatus.RUNNING
        ]

    async def move(self, run_id: str, *, name: str, build_id: str) -> None:
        """Have an open run go on with another build, and stay with that one.

        Raises:
            RPCError: It has ended, or Temporal refuses or does not answer.
        """
        target = WorkerDeploymentVersion(deployment_name=name, build_id=build_id)
        once = VersioningOverride.OneTimeOverride(target_deployment_version=target)
        request = UpdateWorkflowExecutionOptionsRequest(
            namespace=self._client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=run_id),
            workflow_execution_options=WorkflowExecutionOptions(versioning_override=VersioningOverride(one_time=once)),
            update_mask=FieldMask(paths=["versioning_override"]),
            identity=self._client.identity,
        )
        await self._service.update_workflow_execution_options(request, timeout=RPC_TIMEOUT)

    async def _describe(self, name: str) -> DescribeWorkerDeploymentResponse:
        request = DescribeWorkerDeploymentRequest(namespace=self._client.namespace, deployment_name=name)
        try:
            return await self._service.describe_worker_deployment(request, timeout=RPC_TIMEOUT)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                raise InvalidInputError(
                    f"there is no deployment {name!r}: no worker with PERDURE_DEPLOYMENT_NAME={name} has polled yet"
                ) from error
            raise

    async def wait_for(self, name: str, build_id: str) -> None:
        """Return when a build is known with all its queues: its workers may have started this very moment.

        Runs that are routed while queues are still added are routed late by the server, at times by a minute.

        Raises:
            InvalidInputError: No worker of that build has polled.
            RPCError: Temporal refuses, or does not answer.
        """
        end = time.monotonic() + ROUTED_WITHIN.total_seconds()
        before: QueueNames = ()
        while True:
            try:
                queues = await self._queues(name, build_id)
            except InvalidInputError:
                if time.monotonic() >= end:
                    raise
            else:
                if queues and queues == before:
                    return
                before = queues
            await asyncio.sleep(PAUSE)

    async def _route(self, name: str, build_id: str, route: Callable[[], Awaitable[object]]) -> None:
        """Route runs to a build, and return when all task queues know."""
        await self.wait_for(name, build_id)
        try:
            await route()
        except RPCError as error:
            raise _unserved(error, build_id) from error
        end = time.monotonic() + ROUTED_WITHIN.total_seconds()
        while await self._is_under_way(name) and time.monotonic() < end:  # noqa: ASYNC110  # it is the server's
            await asyncio.sleep(PAUSE)

    async def _queues(self, name: str, build_id: str) -> QueueNames:
        described = await self._describe(name)
        known = [one.deployment_version.build_id for one in described.worker_deployment_info.version_summaries]
        if build_id not in known:
            raise InvalidInputError(
                f"deployment {name!r} has no build {build_id!r}: no worker with PERDURE_BUILD_ID={build_id} has polled "
                f"yet; known are {', '.join(known)}"
            )
        version = WorkerDeploymentVersion(deployment_name=name, build_id=build_id)
        request = DescribeWorkerDeploymentVersionRequest(namespace=self._client.namespace, deployment_version=version)
        try:
            found = await self._service.describe_worker_deployment_version(request, timeout=RPC_TIMEOUT)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:  # it is being added
                return ()
            raise
        return tuple(sorted((one.name, one.type) for one in found.worker_deployment_version_info.task_queue_infos))

    async def _is_under_way(self, name: str) -> bool:
        """Whether some of its task queues have not heard yet where new runs go."""
        state = (await self._describe(name)).worker_deployment_info.routing_config_update_state
        return state == RoutingConfigUpdateState.ROUTING_CONFIG_UPDATE_STATE_IN_PROGRESS

    async def _deployment(self, info: WorkerDeploymentInfo) -> Deployment:
        routing = info.routing_config
        current = routing.current_deployment_version.build_id
        ramping = routing.ramping_deployment_version.build_id
        percent = Counter({ramping: routing.ramping_version_percentage} if ramping else {})
        percent[current] += 100 - percent.total()
        builds = [
            Build(
                build_id=one.deployment_version.build_id,
                status=_STATUSES.get(one.status, "inactive"),
                percent=percent[one.deployment_version.build_id],
                open_runs=await self._count_open(info.name, one.deployment_version.build_id),
                created_at=one.create_time.ToDatetime(tzinfo=UTC),
                status_since=_latest(
                    one.current_since_time, one.ramping_since_time, one.drainage_info.last_changed_time
                ),
            )
            for one in info.version_summaries
        ]
        builds.sort(key=lambda build: build.created_at, reverse=True)
        return Deployment(name=info.name, current=current or None, ramping=ramping or None, builds=tuple(builds))

    async def _count_open(self, name: str, build_id: str) -> int:
        query = (
            f"WorkflowType = '{WORKFLOW_NAME}' AND ExecutionStatus = 'Running' "
            f"AND TemporalWorkerDeploymentVersion = '{name}:{build_id}'"
        )
        return (await self._client.count_workflows(query, rpc_timeout=RPC_TIMEOUT)).count


def _unserved(error: RPCError, build_id: str) -> PerdureError | RPCError:
    if "missing active task queues" not in error.message:
        return error
    return InvalidInputError(
        f"workers of build {build_id!r} do not poll all task queues where work comes in, those of tools and providers "
        f"with a rate included; give it the same rates as the current build has: {error.message}"
    )


def _latest(*times: Timestamp) -> datetime | None:
    return max((time.ToDatetime(tzinfo=UTC) for time in times if time.seconds), default=None)
