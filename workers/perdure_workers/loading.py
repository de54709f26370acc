"""The user's app as commands load it: installed, or from the folder they run in."""

from __future__ import annotations

import sys
from pathlib import Path

from perdure.app import App, load_app
from perdure.errors import AppLoadError
from perdure.settings import Settings, load_settings


def load_here(settings: Settings) -> App:
    """Load the app that the settings name; a module in the working directory is found like an installed one.

    Raises:
        ConfigurationError: As `perdure.app.load_app`.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    return load_app(settings.app, policy=settings.policy)


def load_at_hand(reference: str | None) -> App | None:
    """Load the app; None if none was named and none is installed, as where only people work who decide and steer.

    Raises:
        ConfigurationError: As `load_here`, for an app that was named.
    """
    settings = load_settings(app=reference)
    try:
        return load_here(settings)
    except AppLoadError:
        if settings.app:
            raise
        return None
