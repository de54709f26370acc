"""Results of `read` tools that are kept for a while, in this process or in a Redis that all workers share.

Only ever a help: whatever is wrong with the cache, the tool is called. What comes out of Redis is JSON that bears a
signature of ours, as whoever can write there must not be able to put words into a tool's mouth, or code into a worker.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import structlog

from perdure.encryption import Keyring
from perdure.errors import SettingsError
from perdure.settings import Settings
from perdure.shared_redis import Absence, redis_address

if TYPE_CHECKING:
    from cashews.backends.interface import Backend

log = structlog.get_logger(__name__)

MAX_RESULT_BYTES: Final = 64 * 1024
"""A larger result is not kept."""
MAX_RESULTS: Final = 1000
"""In the memory of one process; with their largest size, what this may cost is known."""
CONTENT: Final = "content"


class ToolCache:
    """Results by key, as long as they are fresh."""

    def __init__(self, open_backend: Callable[[], Backend], *, prefix: str = "") -> None:
        """Begin empty.

        Args:
            open_backend: Makes what keeps the results; called with the first of them.
            prefix: Of all keys.
        """
        self._open = open_backend
        self._prefix = prefix
        self._backend: Backend | None = None
        self._absence = Absence("tool_cache_away", instead="tools are called each time")

    @staticmethod
    async def prepare() -> None:
        """Load the library, half a second of CPU, before a call waits for it."""
        await asyncio.to_thread(importlib.import_module, "cashews")

    async def find(self, key: str) -> str | None:
        """Return the result of that key, if there is a fresh one."""
        found = await self._ask(lambda backend: backend.get(self._prefix + key))
        if found is None:
            return None
        content = found.get(CONTENT) if isinstance(found, dict) else None
        if not isinstance(content, str):
            log.warning("cached_result_refused", why="it is no result")
            return None
        return content

    async def keep(self, key: str, content: str, *, ttl: timedelta) -> None:
        """Keep a result, unless it is too large."""
        if len(content.encode("utf-8", "replace")) <= MAX_RESULT_BYTES:
            seconds = ttl.total_seconds()
            await self._ask(lambda backend: backend.set(self._prefix + key, {CONTENT: content}, expire=seconds))

    async def close(self) -> None:
        """Release connections, and forget what is in memory."""
        backend, self._backend = self._backend, None
        if backend is not None:
            await backend.close()  # type: ignore[no-untyped-call]  # the library's

    async def _ask(self, question: Callable[[Backend], Any]) -> Any:
        from cashews.exceptions import CacheBackendInteractionError, UnSecureDataError

        if self._absence.pauses:
            return None
        if self._backend is None:
            self._backend = self._open()
        try:
            if not self._backend.is_init:
                await self._backend.init()  # type: ignore[no-untyped-call]  # the library's
            answer = await question(self._backend)
        except (UnSecureDataError, ValueError) as error:  # not ours, or encrypted by a worker that has keys
            log.warning("cached_result_refused", why=str(error))
            return None
        except CacheBackendInteractionError as error:
            self._absence.begin(error.__cause__)
            return None
        self._absence.end()
        return answer


def tool_cache(settings: Settings) -> ToolCache:
    """Return the process's cache; nothing is imported or connected before a tool has a result to keep.

    Raises:
        SettingsError: It is to be shared, and the address, the secret or the client of Redis is missing or wrong.
    """
    if settings.tool_cache == "memory":
        return ToolCache(_memory)
    url = redis_address(settings)
    if url is None or settings.tool_cache_secret is None:
        raise SettingsError(
            "PERDURE_TOOL_CACHE=redis needs PERDURE_REDIS_URL, and PERDURE_TOOL_CACHE_SECRET to sign what is kept there"
        )
    secret, keyring = settings.tool_cache_secret.get_secret_value(), settings.keyring()
    return ToolCache(
        lambda: _shared(url, secret=secret, keyring=keyring), prefix=f"perdure:{settings.task_queue}:tool-cache:"
    )


def _memory() -> Backend:
    from cashews.backends.memory import Memory

    return Memory(size=MAX_RESULTS, check_interval=0)  # what is stale goes when it is looked for, or is least used


def _shared(url: str, *, secret: str, keyring: Keyring | None) -> Backend:
    from perdure_activities.shared_results import SharedResults

    return SharedResults(url, secret=secret, keyring=keyring)
