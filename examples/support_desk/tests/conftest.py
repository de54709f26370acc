"""Each test gets a shop of its own."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of a shop's database that is not built yet."""
    path = tmp_path / "new" / "shop.db"
    monkeypatch.setenv("SUPPORT_DESK_DB", str(path))
    monkeypatch.delenv("SUPPORT_DESK_REFUND_PAUSE", raising=False)
    return path
