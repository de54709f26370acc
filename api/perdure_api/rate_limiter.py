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
from datetime import timedelta
from typing import Final

import structlog
from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage, Storage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import StorageError

from perdure.errors import SettingsError
from perdure.rate import Rate
from perdure.settings import Settings

log = structlog.get_logger(__name__)

PATIENCE: Final = timedelta(seconds=1)
"""How long a request waits for Redis before it is counted here."""
PAUSE: Final = timedelta(seconds=5)
"""How long a Redis that does not answer is left alone."""
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
        self._alone_until = 0.0
        self.alone = False
        """Whether the others could not be asked when it last counted."""

    async def count(self, buckets: Sequence[Bucket]) -> Verdict:
        """Count a request in each bucket, from the narrowest to the widest, until one is full.

        A request that a narrow one refuses does not count in a wide one: nobody can use up what others share.
        """
        if self._shared is not None and time.monotonic() >= self._alone_until:
            try:
                verdict = await _count(self._shared, buckets)
            except StorageError as error:
                self._go_alone(error)
            else:
                self.alone = False
                return verdict
        return await _count(self._here, buckets)

    async def close(self) -> None:
        """Release connections."""
        if self._close is not None:
            await self._close()

    def _go_alone(self, error: StorageError) -> None:
        if not self.alone:
            log.warning("rate_limits_not_shared", error=repr(error.storage_error), instead="each process counts alone")
        self.alone, self._alone_until = True, time.monotonic() + PAUSE.total_seconds()


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
        SettingsError: A Redis is configured whose client is missing, or whose address is none.
    """
    if settings.redis_url is None:
        return RateLimiter()
    url = settings.redis_url.get_secret_value()
    try:
        return _sharing(url, prefix=f"perdure:{settings.task_queue}:rate-limits")
    except ModuleNotFoundError as error:
        raise SettingsError(
            "PERDURE_REDIS_URL is set but the client is missing: pip install 'perdure[redis]'"
        ) from error
    except ValueError as error:
        raise SettingsError(f"PERDURE_REDIS_URL is no address of a Redis: {error}") from error


def _sharing(url: str, *, prefix: str) -> RateLimiter:
    # The client is an extra. Its default pool raises when it is exhausted, and its default retries outlast a request.
    from limits.aio.storage import RedisStorage
    from redis.asyncio import BlockingConnectionPool
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    seconds = PATIENCE.total_seconds()
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=MAX_CONNECTIONS,
        timeout=seconds,
        socket_timeout=seconds,
        socket_connect_timeout=seconds,
        retry=Retry(NoBackoff(), 0),
    )
    storage = RedisStorage(
        f"async+{url}",
        wrap_exceptions=True,
        implementation="redispy",
        key_prefix=prefix,
        connection_pool=pool,  # type: ignore[arg-type]  # it takes one, by its documentation
    )
    return RateLimiter(storage, close=pool.aclose)
