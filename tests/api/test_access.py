"""Whom an API without a key takes for a program of this machine."""

from __future__ import annotations

import pytest

from tests.api.conftest import Api


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "127.0.0.1:8000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "localhost:8000", "Origin": "http://localhost:8000"}, 200),
        ({"Host": "localhost:8000", "Origin": "http://localhost:3000"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": "192.0.2.1"}, 403),
        ({"Host": "["}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "http://["}, 403),
        ({"Origin": "null"}, 403),
    ],
)
async def test_only_loopback_names_are_this_machine(api: Api, headers: dict[str, str], status: int) -> None:
    """A Host or Origin that is anything else, even one that is no address at all, is answered 403."""
    response = await api.http.get("/v1/agents", headers=headers)

    assert response.status_code == status
