"""The activity `prepare_run`: a scheduled run as the API would start it now, for whoever made the schedule.

It is here, and not with the activities, as it does what the API does. Idempotent: nothing is changed.
"""

from __future__ import annotations

import re

from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError

from perdure.app import App
from perdure.errors import IssuerUnreachableError, PerdureError, PermissionDeniedError, ServerUnreachableError
from perdure.outgoing import Outgoing
from perdure.principal import Principal
from perdure.schedule import PreparedRun, StartRequest
from perdure.settings import Settings
from perdure_api.gateway import Gateway
from perdure_api.keys import ApiKeys
from perdure_api.schemas import NewRun

_PASSING = (ServerUnreachableError, IssuerUnreachableError)


class ScheduledStarts:
    """Prepares runs in one worker process."""

    def __init__(self, app: App, settings: Settings, *, outgoing: Outgoing) -> None:
        self._app = app
        self._settings = settings
        self._outgoing = outgoing

    @activity.defn
    async def prepare_run(self, request: StartRequest) -> PreparedRun:
        """Check and resolve a run as a request to start it now would be.

        Raises:
            ApplicationError: It would be refused; final, unless Temporal itself does not answer.
        """
        client = activity.client()
        try:
            principal = await self._principal(client, request.start.principal)
            gateway = Gateway(client, self._app, self._settings, principal=principal, outgoing=self._outgoing)
            return await gateway.runs.prepare(NewRun.model_validate(request.start.request), run_id=request.run_id)
        except PerdureError as error:
            kind = re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__.removesuffix("Error")).lower()
            final = not isinstance(error, _PASSING)
            raise ApplicationError(str(error), type=kind, non_retryable=final) from None

    async def _principal(self, client: Client, principal: Principal) -> Principal:
        """Return who starts the run: with a key, as long as that is valid.

        Raises:
            PermissionDeniedError: It is not any more.
        """
        if principal.via != "key":
            return principal
        key = await ApiKeys(client, task_queue=self._settings.task_queue).find(principal.credential)
        if key is None or key.state != "active":
            state = "gone" if key is None else key.state
            raise PermissionDeniedError(
                f"the key {principal.credential!r} of {principal.user!r}, who made the schedule, is {state}; "
                "set what it runs again with a key that is valid"
            )
        return key.record.principal
