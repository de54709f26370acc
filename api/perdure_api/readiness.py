"""Which of the things that this process depends on are down, and since when, as far as this process has looked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from perdure.errors import NoWorkerError, PerdureError, ServerUnreachableError
from perdure.settings import Settings
from perdure.shared_redis import connection_options, redis_address
from perdure_api.agents import Agents
from perdure_api.audit import Audit
from perdure_api.oidc import Issuer
from perdure_api.pollers import Pollers
from perdure_api.schemas import DownDependency

PATIENCE: Final = timedelta(seconds=3)
"""For one of them to answer."""


class Readiness:
    """Looks at the dependencies, and remembers since when each has been down."""

    def __init__(self, settings: Settings, audit: Audit) -> None:
        self._since: dict[str, datetime] = {}
        self._optional: dict[str, Callable[[], Awaitable[object]]] = {}
        if address := redis_address(settings):
            self._optional["redis"] = lambda: _ping(address)
        if settings.audit_url is not None:
            self._optional["audit"] = audit.reach
        if settings.oidc is not None:
            self._optional["oidc"] = Issuer(settings.oidc).reach

    async def look(self, agents: Agents) -> tuple[Pollers | PerdureError, tuple[DownDependency, ...]]:
        """Return the workers that poll, or why no run would go on; and all that is down.

        Without the optional ones runs go on: what Redis shares is each process's own then, the audit catches up, and
        API keys count where tokens do not.
        """
        needed, others = await asyncio.gather(
            _workers(agents), asyncio.gather(*(self._check(name, ask) for name, ask in self._optional.items()))
        )
        down = [one for one in others if one is not None]
        if isinstance(needed, PerdureError):
            name = "temporal" if isinstance(needed, ServerUnreachableError) else "workers"
            down = [self._down(name, str(needed)), *down]
        for name in [name for name in self._since if name not in {one.name for one in down}]:
            del self._since[name]
        return needed, tuple(down)

    async def _check(self, name: str, ask: Callable[[], Awaitable[object]]) -> DownDependency | None:
        try:
            await asyncio.wait_for(ask(), PATIENCE.total_seconds())
        except Exception as error:  # of a client that is not ours: whatever it raises, the thing is not to be had
            # An address may hold a password, and a client's message its address.
            why = str(error) if isinstance(error, PerdureError) else type(error).__name__
            return self._down(name, f"it does not answer: {why}")
        return None

    def _down(self, name: str, detail: str) -> DownDependency:
        return DownDependency(name=name, detail=detail, since=self._since.setdefault(name, datetime.now(UTC)))


async def _workers(agents: Agents) -> Pollers | PerdureError:
    try:
        pollers = await agents.pollers()
    except PerdureError as error:
        return error
    if not (pollers.workflow and pollers.activity) and pollers.idle_builds:
        builds = ", ".join(pollers.idle_builds)
        return NoWorkerError(
            f"workers poll, but none that new runs go to: those of {builds} get no new runs, until one of them is made "
            "current with 'perdure deployments current BUILD'"
        )
    if not (pollers.workflow and pollers.activity):
        return NoWorkerError("Temporal answers, but no worker polls the task queue; start one with 'perdure worker'")
    if unserved := [name for name, count in pollers.rated.items() if not count]:
        return NoWorkerError(
            f"workers run, but none polls {', '.join(unserved)}: they lack rates that the app here declares, and calls "
            "would wait there for good; deploy the same app to both"
        )
    return pollers


async def _ping(address: str) -> None:
    from redis.asyncio import Redis

    redis: Any = Redis.from_url(address, **connection_options())
    try:
        await redis.ping()
    finally:
        await redis.aclose()
