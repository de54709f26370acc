"""What a caller's requests go by: the connection, the app, the settings, and whose runs there are for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from temporalio.client import Client

from perdure.app import App
from perdure.outgoing import Outgoing
from perdure.principal import Principal
from perdure.redaction import Redactor
from perdure.settings import Settings
from perdure_api.authority import wanted_org
from perdure_api.executions import Executions
from perdure_api.known_rollouts import KnownRollouts


@dataclass(frozen=True)
class Reach:
    """One principal's. Of an organisation, it has that organisation's runs; there are no others."""

    client: Client
    """With Perdure's data converter, as `perdure.connection.connect` makes it."""
    app: App
    """For starting runs and for checking edited arguments; an empty one serves everything else."""
    settings: Settings
    """For task queue, links and redaction."""
    principal: Principal
    outgoing: Outgoing
    """Checks callback URLs."""
    redactor: Redactor = field(repr=False)
    rollouts: KnownRollouts
    """Which versions runs start with, as the process knows it."""

    @cached_property
    def executions(self) -> Executions:
        """The principal's runs as Temporal has them."""
        return Executions(self.client, org=self.principal.org)

    def orgs(self, wanted: str | None) -> tuple[str, ...]:
        """Return the organisations all of which what is found must be of: the principal's, and the one wanted."""
        return wanted_org(self.principal, wanted)
