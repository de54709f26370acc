"""`Perdure(app)`: the whole runtime as one Temporal plugin, for our worker, a user's own, a client and a replayer."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Final

from temporalio.contrib.pydantic import PydanticPayloadConverter
from temporalio.plugin import SimplePlugin
from temporalio.worker import Worker, WorkerConfig

from perdure.app import App
from perdure.codec import data_converter, require_encryption
from perdure.deltas import DeltaBus
from perdure.deltas.opening import delta_bus
from perdure.errors import ConfigurationError
from perdure.outgoing import Outgoing
from perdure.personal_data import load_redactor
from perdure.settings import Settings
from perdure_activities.audit.activity import AuditActivities
from perdure_activities.breaker import Breaker, breaker_for
from perdure_activities.deliveries import Deliveries
from perdure_activities.grants import GrantActivities
from perdure_activities.ledger import deliver_answers, inspect_holders, open_ledger, read_calendar
from perdure_activities.model import ModelActivities
from perdure_activities.notice_body import Links
from perdure_activities.providers.provider import Provider
from perdure_activities.providers.registry import default_providers
from perdure_activities.recovery import reset_run
from perdure_activities.scoring import ScorerActivities
from perdure_activities.tool_cache import tool_cache
from perdure_activities.tools import ToolActivities
from perdure_activities.transcripts import Transcripts
from perdure_workers.auditing import auditing
from perdure_workers.interceptors import Observation
from perdure_workers.rated_queues import Activities, run_with_rated_queues
from perdure_workers.sandbox import strict, without_contexts
from perdure_workers.scheduled_starts import ScheduledStarts
from perdure_workers.versioning import Upgrading
from perdure_workflows.agent_run import AgentRun
from perdure_workflows.api_key import ApiKey
from perdure_workflows.auditor import Auditor
from perdure_workflows.delivery import Delivery
from perdure_workflows.feedback import KeptFeedback
from perdure_workflows.grant import StandingGrant
from perdure_workflows.ledger import Ledger
from perdure_workflows.ledger_page import LedgerPage
from perdure_workflows.retry import Retry
from perdure_workflows.rollout import KeptRollout
from perdure_workflows.scheduled_run import ScheduledRun
from perdure_workflows.scoring import Scoring

STICKY_TIMEOUT: Final = timedelta(seconds=2)
"""How long a dead worker's cached runs wait before another worker takes them over."""
HEARTBEAT_INTERVAL: Final = timedelta(seconds=1)
"""Without this the SDK passes on heartbeats only every 0.8 × their timeout, and cancellation as rarely."""
EAGER_ACTIVITIES: Final = 16
"""Calls of one reply that start on the worker which has their conversation in memory."""
WORKFLOWS: Final = (
    AgentRun,
    StandingGrant,
    ApiKey,
    Auditor,
    Delivery,
    KeptFeedback,
    Ledger,
    LedgerPage,
    KeptRollout,
    Retry,
    ScheduledRun,
    Scoring,
)


class Perdure(SimplePlugin):
    """Adds the run workflow, its activities, the payload converter and the log context to a client and its workers.

    Give it to `Client.connect(plugins=[…])` (its workers inherit it), or to a `Worker` or `Replayer` alone.
    """

    def __init__(
        self,
        app: App,
        *,
        settings: Settings | None = None,
        providers: Mapping[str, Provider] | None = None,
        breaker: Breaker | None = None,
        outgoing: Outgoing | None = None,
        deltas: DeltaBus | None = None,
    ) -> None:
        """Assemble the runtime for one process.

        Args:
            app: Agents and tools.
            settings: Default: `PERDURE_*` variables and `perdure.toml`.
            providers: Model providers by prefix; default: the built-in ones.
            breaker: Keeps models that fail from being called; default: circuits as the settings have them.
            outgoing: Calls webhooks; default: at public addresses, and in the networks that the settings allow.
            deltas: Carries what models say to viewers; default: the bus that the settings name, if they do.
        """
        settings = settings or Settings()
        if settings.policy is not None:
            app.govern(settings.policy)
        worker = uuid.uuid4().hex
        self.app = app
        self._encrypts = bool(settings.encryption_keys)
        self._settings = settings
        self.providers = dict(default_providers() if providers is None else providers)
        self.transcripts = Transcripts(max_bytes=settings.transcript_cache_mb * 1024 * 1024)
        self._circuits = breaker_for(settings)
        self._deltas = deltas or delta_bus(settings)
        model = ModelActivities(
            app,
            providers=self.providers,
            transcripts=self.transcripts,
            breaker=breaker or self._circuits,
            prices=settings.prices,
            worker=worker,
            trace_content=settings.trace_content,
            deltas=self._deltas if settings.pii == "off" else None,  # personal data is found in whole texts only
        )
        # Each queue that a rate needs has as many calls at a time as the worker's own.
        rated = sum(tool.spec.rate is not None for tool in app.tools())
        threads = settings.max_concurrent_activities * (1 + rated)
        self._cache = tool_cache(settings)
        self._tools = tools = ToolActivities(
            app, transcripts=self.transcripts, worker=worker, threads=threads, cache=self._cache
        )
        redactor = load_redactor(settings)
        self._scorers = scorers = ScorerActivities(
            app,
            providers=self.providers,
            transcripts=self.transcripts,
            breaker=breaker or self._circuits,
            prices=settings.prices,
            redactor=redactor,
            threads=settings.max_concurrent_activities,
        )
        self._rated_activities: Activities = {
            "model": (model.call_model, scorers.score_run),
            "tool": (tools.call_tool, tools.reconcile_call),
        }
        outgoing = outgoing or Outgoing(allowed=settings.callback_allowed_networks)
        self._deliveries = deliveries = Deliveries(
            outgoing=outgoing,
            secrets=settings.webhook_secrets,
            links=Links(public_url=settings.public_url, ui_url=settings.ui_url),
            redactor=redactor,
        )
        super().__init__(
            "perdure",
            data_converter=partial(
                data_converter, compress_above=settings.compress_above_bytes, keyring=settings.keyring()
            ),
            workflows=WORKFLOWS,
            activities=[
                model.call_model,
                model.adopt_transcript,
                tools.call_tool,
                tools.check_call,
                tools.reconcile_call,
                tools.clean_up_call,
                GrantActivities().record_grant,
                AuditActivities(settings).audit,
                deliveries.deliver,
                ScheduledStarts(app, settings, outgoing=outgoing).prepare_run,
                scorers.score_run,
                scorers.record_feedback,
                open_ledger,
                read_calendar,
                deliver_answers,
                inspect_holders,
                reset_run,
            ],
            interceptors=[Observation(app, trace_content=settings.trace_content)],
            workflow_runner=strict,
            run_context=self._serve,
        )

    def configure_worker(self, config: WorkerConfig) -> WorkerConfig:
        """Add the runtime to a worker, with the timings that recovery depends on.

        Raises:
            ConfigurationError: The worker's client does not speak Pydantic JSON, or does not encrypt where it should.
        """
        config = super().configure_worker(config)
        converter = config["client"].config(active_config=True)["data_converter"]
        if not issubclass(converter.payload_converter_class, PydanticPayloadConverter):
            raise ConfigurationError(
                f"the client converts payloads by {converter.payload_converter_class.__name__}; give it this plugin "
                "too, Client.connect(…, plugins=[Perdure(app)]), or a PydanticPayloadConverter"
            )
        if self._encrypts:
            require_encryption(converter)
        config["sticky_queue_schedule_to_start_timeout"] = STICKY_TIMEOUT
        config["max_heartbeat_throttle_interval"] = HEARTBEAT_INTERVAL
        config["max_eager_activity_reservations_per_workflow_task"] = EAGER_ACTIVITIES
        config["workflow_runner"] = without_contexts(config["workflow_runner"], converter)
        deployment = config.get("deployment_config")
        if deployment is not None and deployment.use_worker_versioning:
            config["workflow_runner"] = Upgrading(config["workflow_runner"], set(WORKFLOWS) - {AgentRun})
        return config

    async def run_worker(self, worker: Worker, next: Callable[[Worker], Awaitable[None]]) -> None:  # noqa: A002  # the SDK's name
        """Run a worker, with the auditor beside it, and other workers where tools or providers have a rate."""

        async def run(worker: Worker) -> None:
            if any(tool.caching for tool in self.app.tools()):
                await self._cache.prepare()
            queues = self.app.rated_queues(worker.task_queue)
            if queues:
                await run_with_rated_queues(worker, next, queues=queues, activities=self._rated_activities)
            else:
                await next(worker)

        async with auditing(worker.client, self._settings, task_queue=worker.task_queue):
            await super().run_worker(worker, run)

    @asynccontextmanager
    async def _serve(self) -> AsyncIterator[None]:
        self.app.check()
        try:
            yield
        finally:
            self._tools.close()
            self._scorers.close()
            await self._circuits.close()
            await self._cache.close()
            if self._deltas is not None:
                await self._deltas.close()
            await self._deliveries.close()
            for provider in self.providers.values():
                await provider.close()
