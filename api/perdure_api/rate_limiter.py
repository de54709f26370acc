"""Counting requests, in this process or in a Redis that all replicas of the API share.

A window slides over two counters for each caller, as `limits` has it: exact enough, and of constant size, where a list
of all requests of a minute is neither needed nor cheap. Without an answer from Redis each replica counts by itself.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage, Storage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import StorageError

from perdure.rate import Rate
from perdure.settings import Settings
from perdure.shared_redis import PATIENCE, Absence, connection_options, redis_address

MAX_CONNECTIONS: Final = 50

_ITEMS: Final[dict[str, type[RateLimitItem]]] = {
    "s": RateLimitItemPerSecond,
    "m": RateLimitItemPerMinute,
    "h": RateLimitItemPerHour,
}


@dataclass(frozen=True)
class Bucket:
    """What is counted: requests of one kind, of one caller, against one rate."""

    policy: str
    """What headers and errors call the limit: `read-user`."""
    subject: tuple[str, ...]
    """Whose requests."""
    rate: Rate

    @property
    def key(self) -> str:
        """Its name in the store, which tells nothing of the caller."""
        return hashlib.sha256(json.dumps([self.policy, *self.subject]).encode()).hexdigest()

    @property
    def item(self) -> RateLimitItem:
        """The rate as `limits` has it."""
        return _ITEMS[self.rate.per](self.rate.calls)

    @property
    def window(self) -> int:
        """Seconds."""
        return self.item.get_expiry()


@dataclass(frozen=True)
class Standing:
    """How much of a bucket is left."""

    bucket: Bucket
    remaining: int
    reset: int
    """Seconds until there is more."""


@dataclass(frozen=True)
class Verdict:
    """What becomes of a request."""

    standings: tuple[Standing, ...]
    """Of the buckets that it was counted in; the last one is that which refuses it, if one does."""
    refused: bool


class RateLimiter:
    """Counts requests."""

    def __init__(self, shared: Storage | None = None, *, close: Callable[[], Awaitable[object]] | None = None) -> None:
        """Begin to count.

        Args:
            shared: What other processes count in too.
            close: Releases its connections.
        """
        self._close = close
        self._here = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._shared = SlidingWindowCounterRateLimiter(shared) if shared is not None else None
        self.absence = Absence("rate_limits_not_shared", instead="each process counts alone")

    async def count(self, buckets: Sequence[Bucket]) -> Verdict:
        """Count a request in each bucket, from the narrowest to the widest, until one is full.

        A request that a narrow one refuses does not count in a wide one: nobody can use up what others share.
        """
        if self._shared is not None and not self.absence.pauses:
            try:
                verdict = await _count(self._shared, buckets)
            except StorageError as error:
                self.absence.begin(error.storage_error)
            else:
                self.absence.end()
                return verdict
        return await _count(self._here, buckets)

    async def close(self) -> None:
        """Release connections."""
        if self._close is not None:
            await self._close()


async def _count(limiter: SlidingWindowCounterRateLimiter, buckets: Sequence[Bucket]) -> Verdict:
    standings: list[Standing] = []
    for bucket in buckets:
        accepted = await limiter.hit(bucket.item, bucket.key)
        left = await limiter.get_window_stats(bucket.item, bucket.key)
        reset = max(1, math.ceil(left.reset_time - time.time()))
        standings.append(Standing(bucket, remaining=left.remaining if accepted else 0, reset=reset))
        if not accepted:
            return Verdict(tuple(standings), refused=True)
    return Verdict(tuple(standings), refused=False)


def rate_limiter(settings: Settings) -> RateLimiter:
    """Return the process's limiter; it connects to Redis, if there is one, when it first counts.

    Raises:
        SettingsError: Redis's address is none, or its client is missing.
    """
    url = redis_address(settings)
    return RateLimiter() if url is None else _sharing(url, prefix=f"perdure:{settings.task_queue}:rate-limits")


def _sharing(url: str, *, prefix: str) -> RateLimiter:
    # The client is an extra; its default pool raises when it is exhausted.
    from limits.aio.storage import RedisStorage
    from redis.asyncio import BlockingConnectionPool

    pool = BlockingConnectionPool.from_url(
        url, max_connections=MAX_CONNECTIONS, timeout=PATIENCE.total_seconds(), **connection_options()
    )
    storage = RedisStorage(
        f"async+{url}",
        wrap_exceptions=True,
        implementation="redispy",
        key_prefix=prefix,
        connection_pool=pool,  # type: ignore[arg-type]  # it takes one, by its documentation
    )
    return RateLimiter(storage, close=pool.aclose)
