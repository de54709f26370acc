"""What all providers share of a call: clients made late and once, heads kept, nothing imported early."""

from __future__ import annotations

import asyncio
import subprocess
import sys

from perdure.agent import AgentSpec
from perdure_activities.providers.exchange import HEADS_KEPT, Heads, LazyClient
from tests.activities.wire_server import spec_of


class Client:
    """Something that can be closed."""

    def __init__(self) -> None:
        self.closed = False

    async def close(self) -> None:
        """Note that it is closed."""
        self.closed = True


def test_importing_the_providers_imports_no_sdk() -> None:
    """The SDKs cost seconds of CPU: nothing loads them before a call, or before a worker says so."""
    code = (
        "import sys, perdure_activities.providers.registry as r, perdure_activities.pricing; r.default_providers(); "
        "print(sorted({'anthropic', 'openai', 'genai_prices'} & set(sys.modules)))"
    )

    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert printed.strip() == "[]"


async def test_a_client_is_made_once() -> None:
    """First calls that come at the same time share one client."""
    made: list[Client] = []

    def connect() -> Client:
        made.append(Client())
        return made[-1]

    lazy = LazyClient(connect, vendor="the vendor")
    clients = await asyncio.gather(*(lazy.get() for _ in range(8)))
    await lazy.close()

    assert set(clients) == {made[0]}
    assert len(made) == 1
    assert made[0].closed


def test_a_head_is_serialised_once() -> None:
    """An agent's head is built at its first call, another agent's separately, and old ones are let go."""
    built: list[str] = []

    def build(spec: AgentSpec) -> bytes:
        built.append(spec.model)
        return spec.model.encode()

    heads = Heads(build)
    first, second = spec_of("anthropic:a"), spec_of("anthropic:b")

    assert [heads.of(first), heads.of(first), heads.of(second)] == [b"anthropic:a", b"anthropic:a", b"anthropic:b"]
    assert built == ["anthropic:a", "anthropic:b"]
    for number in range(HEADS_KEPT):
        heads.of(spec_of(f"anthropic:{number}"))
    assert heads.of(first) == b"anthropic:a"
    assert built.count("anthropic:a") == 2
