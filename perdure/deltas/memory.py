"""A bus within one process, which is also what a hub between processes keeps."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator
from typing import Final

from perdure.deltas.delta import Piece
from perdure.deltas.speech import Speech

MAX_CHARACTERS: Final = 8_000_000
"""Kept of all runs together, for viewers who come late; of what nobody listens to the longest silent goes first."""
MAX_RUNS: Final = 1_000


class _Channel:
    """One run's speech, and who waits for more of it."""

    def __init__(self) -> None:
        self.speech = Speech()
        self.listeners = 0
        self.news = asyncio.Event()

    def announce(self) -> None:
        self.news.set()
        self.news = asyncio.Event()


class MemoryBus:
    """Keeps of each run the attempt under way. A slow listener costs no memory: it reads on where it was."""

    def __init__(self) -> None:
        self._channels: OrderedDict[str, _Channel] = OrderedDict()
        self._characters = 0

    def publish(self, run_id: str, piece: Piece) -> None:
        """Pass a piece on to whoever listens, and keep it."""
        channel = self._channel(run_id)
        before = channel.speech.characters
        if channel.speech.add(piece):
            self._characters += channel.speech.characters - before
            channel.announce()
            self._shrink()

    async def listen(self, run_id: str) -> AsyncGenerator[Piece]:
        """Iterate over the attempt under way so far, and over what is to come."""
        channel = self._channel(run_id)
        channel.listeners += 1
        voice, place = None, 0
        try:
            while True:
                speech = channel.speech
                if speech.voice != voice:
                    voice, place = speech.voice, 0
                    if voice is not None:
                        yield Piece(**voice._asdict(), seq=0, text="")
                elif place < len(speech.pieces):
                    place += 1
                    yield speech.pieces[place - 1]
                else:
                    await channel.news.wait()
        finally:
            channel.listeners -= 1
            self._shrink()

    def forget(self, run_id: str) -> None:
        """Drop a run that nobody listens to."""
        channel = self._channels.get(run_id)
        if channel is not None and not channel.listeners:
            del self._channels[run_id]
            self._characters -= channel.speech.characters

    async def close(self) -> None:
        """Forget everything."""
        self._channels.clear()
        self._characters = 0

    def _channel(self, run_id: str) -> _Channel:
        channel = self._channels.get(run_id)
        if channel is None:
            channel = self._channels[run_id] = _Channel()
        self._channels.move_to_end(run_id)
        return channel

    def _shrink(self) -> None:
        if self._characters <= MAX_CHARACTERS and len(self._channels) <= MAX_RUNS:
            return
        for run_id, channel in list(self._channels.items()):
            if not channel.listeners:
                self.forget(run_id)
                if self._characters <= MAX_CHARACTERS and len(self._channels) <= MAX_RUNS:
                    return
