"""Which bus the settings name."""

from __future__ import annotations

from perdure.deltas.delta import DeltaBus
from perdure.deltas.socket_bus import SocketBus
from perdure.settings import Settings
from perdure.shared_redis import redis_address


def delta_bus(settings: Settings) -> DeltaBus | None:
    """Return the bus between workers and API; None: viewers get whole steps.

    Raises:
        SettingsError: A Redis is set, and its address or its client is not what it must be.
    """
    if settings.delta_socket is not None:
        return SocketBus(settings.delta_socket)
    if address := redis_address(settings):
        from perdure.deltas.redis_bus import RedisBus  # an extra

        return RedisBus(address, prefix=f"perdure:{settings.task_queue}:deltas:", keyring=settings.keyring())
    return None
