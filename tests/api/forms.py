"""Forms of the console, sent as a browser does without JavaScript."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from httpx2 import Response

from perdure.testing import eventually
from tests.api.conftest import Api

ORIGIN = {"Origin": "http://localhost"}


def token(page: Response) -> str:
    """Return the token of a page's forms."""
    found = re.search(r'name="csrf" value="([^"]+)"', page.text)
    assert found is not None, page.text[:2000]
    return found[1]


async def post(api: Api, path: str, *, page: str, **fields: Any) -> Response:
    """Send a form as it is on a page."""
    shown = await api.http.get(page)
    return await api.http.post(path, data={"csrf": token(shown), **fields}, headers=ORIGIN)


async def log_in(api: Api, key: str, **fields: str) -> Response:
    """Log in with a key."""
    return await post(api, "/console/login", page="/console/login", key=key, **fields)


async def until_shown(api: Api, path: str, *texts: str) -> str:
    """Wait until a page has these texts, and return it."""

    async def shown() -> str:
        page = (await api.http.get(path)).text
        return page if all(text in page for text in texts) else ""

    return await eventually(shown, within=timedelta(seconds=20), what=f"{texts} on {path}")
