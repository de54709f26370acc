"""The circuits that processes share, in Redis. Imported only where a Redis is configured, as its client is an extra."""

from __future__ import annotations

from typing import Final

from interlock import ProbeLease, SharedState
from interlock.integrations.redis import AsyncRedisStorage
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

TIMEOUT: Final = 1.0
"""Seconds. A call waits for Redis only while its model is being tried again."""
STATE_TTL: Final = 120.0
"""Seconds after which a circuit that nobody changes is closed: so long a probe counts whose process was killed."""


class CircuitStorage(AsyncRedisStorage):
    """The library's storage, in which a probe can get lost.

    A probe whose process dies is never reported. The library leaves that to the circuit's expiry, but puts the expiry
    off with each call that it refuses: while calls keep coming, such a circuit would stay half open for good.
    """

    def __init__(self, url: str, *, prefix: str, state_ttl: float = STATE_TTL) -> None:
        """Prepare; it connects when it is first used.

        Args:
            url: The Redis, as in `redis://localhost:6379/0`.
            prefix: Of all keys.
            state_ttl: Seconds after which a circuit that nobody changes is closed.

        Raises:
            ValueError: The URL is no Redis's.
        """
        self._redis = Redis.from_url(
            url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT, retry=Retry(NoBackoff(), 0)
        )
        super().__init__(self._redis, key_prefix=prefix, state_ttl=state_ttl)

    async def lease_probe(self, *, name: str, ttl: float) -> ProbeLease:
        """Claim a probe, and leave the circuit alone when there is none to claim."""
        circuit = await self.read(name)
        if circuit is None or not circuit.probes_remaining:
            return ProbeLease(granted=False, state=circuit or SharedState.closed())
        return await super().lease_probe(name=name, ttl=ttl)

    async def disconnect(self) -> None:
        """Release the connections."""
        await self._redis.aclose()
