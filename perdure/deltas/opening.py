"""Which bus the settings name."""

from __future__ import annotations

from perdure.deltas.delta import DeltaBus
from perdure.settings import Settings


def delta_bus(settings: Settings) -> DeltaBus | None:
    """Return the bus between workers and API; None: viewers get whole steps."""
    del settings
    return None
