"""What a vendor keeps of prompts: beginnings that it has read before, and charges less for.

The rules are the vendors'. Anthropic keeps what ends at a mark, and looks for it up to twenty blocks before each mark
of a later request; OpenAI keeps every beginning by itself, for requests of one `prompt_cache_key`. Left out are the
least size of a cached prompt at Anthropic and the time after which a vendor forgets, so that small tests show the rest.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from pydantic_core import to_json

from perdure.messages import JsonObject

REMEMBERED_BEGINNINGS: Final = 50_000
LOOKBACK: Final = 20
"""Blocks before a mark in which Anthropic looks for a beginning that it knows."""


@dataclass(frozen=True)
class Block:
    """A piece of a prompt, after which a beginning may end."""

    content: JsonObject
    marked: bool = False
    """Whether the request asks to keep what ends here."""


@dataclass(frozen=True)
class Found:
    """How much of a prompt was known, and how much of it is kept from now on; both from its start, in bytes."""

    known: int
    kept: int


class PromptCache:
    """The beginnings that a vendor remembers; those not seen for longest are forgotten first."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, None] = OrderedDict()

    def marked(self, blocks: Sequence[Block], *, scope: str) -> Found:
        """Look a prompt up by its marks, and keep what ends at them.

        Args:
            blocks: The prompt, in order.
            scope: Prompts of another scope share nothing with it: the model, and whatever else divides the cache.
        """
        beginnings, sizes = _beginnings(blocks, scope)
        marks = [place for place, block in enumerate(blocks) if block.marked]
        looked_at = {place for mark in marks for place in range(max(0, mark - LOOKBACK), mark + 1)}
        known = max((sizes[place] for place in looked_at if beginnings[place] in self._known), default=0)
        self._keep(beginnings[mark] for mark in marks)
        return Found(known=known, kept=sizes[marks[-1]] if marks else 0)

    def longest(self, blocks: Sequence[Block], *, scope: str) -> Found:
        """Look a prompt up by all its beginnings, and keep them all; the arguments are those of `marked`."""
        beginnings, sizes = _beginnings(blocks, scope)
        known = max(
            (size for beginning, size in zip(beginnings, sizes, strict=True) if beginning in self._known), default=0
        )
        self._keep(beginnings)
        return Found(known=known, kept=sizes[-1] if sizes else 0)

    def _keep(self, beginnings: Iterable[bytes]) -> None:
        for beginning in beginnings:
            self._known[beginning] = None
            self._known.move_to_end(beginning)
        while len(self._known) > REMEMBERED_BEGINNINGS:
            self._known.popitem(last=False)


def _beginnings(blocks: Sequence[Block], scope: str) -> tuple[list[bytes], list[int]]:
    """Return a digest of the prompt up to each block, and its size in bytes."""
    state = hashlib.blake2b(scope.encode(), digest_size=16)
    digests, sizes = [], []
    for block in blocks:
        content = to_json(block.content)
        state.update(content)
        digests.append(state.digest())
        sizes.append(len(content))
    return digests, list(accumulate(sizes))
