"""The user's app as commands load it: installed, or from the folder they run in."""

from __future__ import annotations

import sys
from pathlib import Path

from perdure.app import App, load_app
from perdure.settings import Settings


def load_here(settings: Settings) -> App:
    """Load the app that the settings name; a module in the working directory is found like an installed one.

    Raises:
        ConfigurationError: As `perdure.app.load_app`.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    return load_app(settings.app, policy=settings.policy)
