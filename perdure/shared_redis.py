"""The Redis that processes of a deployment may share: its address, how long it is waited for, and what when it is away.

Whatever is kept there is a help and never a condition: without an answer each process goes on alone.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any, Final

import structlog

from perdure.errors import SettingsError
from perdure.settings import Settings

PATIENCE: Final = timedelta(seconds=1)
"""How long it is waited for."""
PAUSE: Final = timedelta(seconds=5)
"""How long it is left alone when it did not answer."""

log = structlog.get_logger(__name__)


def redis_address(settings: Settings) -> str | None:
    """Return the address, if one is set.

    Raises:
        SettingsError: It is none of a Redis, or the client is not installed.
    """
    if settings.redis_url is None:
        return None
    try:
        from redis.asyncio.connection import parse_url  # an extra
    except ModuleNotFoundError as error:
        raise SettingsError(
            "PERDURE_REDIS_URL is set, but the client is missing: pip install 'perdure[redis]'"
        ) from error
    url = settings.redis_url.get_secret_value()
    try:
        parse_url(url)
    except ValueError as error:
        raise SettingsError(f"PERDURE_REDIS_URL is no address of a Redis: {error}") from error
    return url


def connection_options() -> dict[str, Any]:
    """Return how to connect: the client's own retries outlast whoever waits."""
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    seconds = PATIENCE.total_seconds()
    return {"socket_timeout": seconds, "socket_connect_timeout": seconds, "retry": Retry(NoBackoff(), 0)}


class Absence:
    """Whether it is away, as one user of it knows: told in the log when that begins, and then left alone a while."""

    def __init__(self, event: str, *, instead: str) -> None:
        """Take it to be there.

        Args:
            event: What the log calls its absence.
            instead: What is done without it, for the log.
        """
        self._event = event
        self._instead = instead
        self._pause_ends = 0.0
        self.lasts = False
        """Whether it did not answer when it was last asked."""

    @property
    def pauses(self) -> bool:
        """Whether it is not to be asked now."""
        return time.monotonic() < self._pause_ends

    def begin(self, error: BaseException | None) -> None:
        """Note that it did not answer."""
        if not self.lasts:
            log.warning(self._event, error=repr(error), instead=self._instead)
        self.lasts, self._pause_ends = True, time.monotonic() + PAUSE.total_seconds()

    def end(self) -> None:
        """Note that it answered."""
        self.lasts = False
