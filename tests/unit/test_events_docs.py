"""The events page: a kind that it does not mention does not exist for a client."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from pydantic import BaseModel

from perdure.events import RunEvent

PAGE = Path(__file__).parents[2] / "docs" / "events.md"


def test_the_page_lists_every_kind_of_event_and_no_other() -> None:
    """A kind that is added, renamed or dropped changes the page in the same commit."""
    types: tuple[type[BaseModel], ...] = get_args(get_args(RunEvent)[0])
    known = {kind for one in types for kind in get_args(one.model_fields["kind"].annotation)}

    rows = [row.split("|")[1] for row in PAGE.read_text().splitlines() if row.startswith("| `")]
    listed = [kind for row in rows for kind in re.findall(r"`([a-z_.]+)`", row)]

    assert sorted(listed) == sorted(known)
