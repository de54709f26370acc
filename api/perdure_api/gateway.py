"""The gateway: what the HTTP routes and the command line do with Temporal, in types, without HTTP."""

from __future__ import annotations

from temporalio.client import Client

from perdure.app import App
from perdure.outgoing import Outgoing
from perdure.personal_data import load_redactor
from perdure.principal import OPERATOR, Principal
from perdure.settings import Settings
from perdure_api.agents import Agents
from perdure_api.approvals import Approvals
from perdure_api.comparison import Comparisons
from perdure_api.deliveries import Deliveries
from perdure_api.feedback import FeedbackBook
from perdure_api.grants import Grants
from perdure_api.health import Health
from perdure_api.known_rollouts import KnownRollouts
from perdure_api.reach import Reach
from perdure_api.recovery import Recovery
from perdure_api.rollouts import Rollouts
from perdure_api.runs import Runs
from perdure_api.schedules import Schedules
from perdure_api.scorings import Scorings
from perdure_api.usage import Usage


class Gateway:
    """What one principal may see and do, by what it is about."""

    runs: Runs
    approvals: Approvals
    grants: Grants
    agents: Agents
    rollouts: Rollouts
    usage: Usage
    health: Health
    comparisons: Comparisons
    feedback: FeedbackBook
    deliveries: Deliveries
    scorings: Scorings
    recovery: Recovery
    schedules: Schedules

    def __init__(
        self,
        client: Client,
        app: App,
        settings: Settings,
        *,
        principal: Principal = OPERATOR,
        outgoing: Outgoing | None = None,
        rollouts: KnownRollouts | None = None,
    ) -> None:
        """Take the connection and the app; see `Reach`.

        Args:
            client: A connected client.
            app: Agents and tools.
            settings: Of the process.
            principal: Who asks.
            outgoing: Checks callback URLs; default: by the networks that the settings allow.
            rollouts: What the process knows of rollouts; default: nothing yet.
        """
        outgoing = outgoing or Outgoing(allowed=settings.callback_allowed_networks)
        reach = Reach(
            client, app, settings, principal, outgoing, load_redactor(settings), rollouts or KnownRollouts(client)
        )
        self._reach = reach
        self.runs = Runs(reach)
        self.approvals = Approvals(reach, self.runs)
        self.grants = Grants(reach)
        self.agents = Agents(reach)
        self.rollouts = Rollouts(reach)
        self.usage = Usage(reach)
        self.health = Health(reach)
        self.comparisons = Comparisons(reach, self.rollouts)
        self.feedback = FeedbackBook(reach)
        self.deliveries = Deliveries(reach)
        self.scorings = Scorings(reach)
        self.recovery = Recovery(reach, self.runs)
        self.schedules = Schedules(reach, self.runs)

    def of(self, principal: Principal) -> Gateway:
        """Return the gateway of another principal."""
        reach = self._reach
        return Gateway(
            reach.client,
            reach.app,
            reach.settings,
            principal=principal,
            outgoing=reach.outgoing,
            rollouts=reach.rollouts,
        )
