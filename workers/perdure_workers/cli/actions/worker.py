"""`perdure worker`: the worker process, until a signal."""

from __future__ import annotations

from perdure.settings import load_settings
from perdure.telemetry import configure_logging
from perdure_workers.loading import load_here
from perdure_workers.signals import stop_signals
from perdure_workers.worker import run_worker


async def serve_worker(*, app: str | None, address: str | None) -> None:
    """Serve the app's runs until a signal, then give running calls their grace.

    Raises:
        PerdureError: The app or the settings are wrong, or no Temporal server answers.
    """
    settings = load_settings(app=app)
    configure_logging(settings)
    with stop_signals() as stop:
        await run_worker(load_here(settings), settings, stop=stop, address=address)
