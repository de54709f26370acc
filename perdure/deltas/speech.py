"""What a run's model is saying at the moment: the latest attempt at the latest step, put together from its pieces."""

from __future__ import annotations

from typing import Final, NamedTuple

from perdure.deltas.delta import Piece

MAX_CHARACTERS: Final = 1_000_000
"""Of one attempt; what goes beyond is left out."""


class Voice(NamedTuple):
    """Who is speaking."""

    execution_id: str
    step: int
    attempt: int


class Speech:
    """Takes in pieces in whatever order they arrive, and keeps those that count.

    A worker that was given up may go on for a while beside the one that took over; the latest attempt is heard.
    """

    def __init__(self) -> None:
        self.voice: Voice | None = None
        self.pieces: list[Piece] = []
        """What it said, without a gap."""
        self.characters = 0
        self._broken = False
        self._retired: set[str] = set()
        self._ended: tuple[str, int] = ("", 0)

    def add(self, piece: Piece) -> bool:
        """Take in a piece, and return whether it changed anything."""
        if piece.execution_id in self._retired or self._is_over(piece):
            return False
        voice = Voice(piece.execution_id, piece.step, piece.attempt)
        if voice != self.voice:
            return self._began(voice, piece)
        return self._went_on(piece)

    def end(self, step: int) -> None:
        """Take note that a step is over: what it said has become an event, and what comes late is of no use."""
        if self.voice is not None and self.voice.step <= step:
            self._ended = (self.voice.execution_id, step)
            self._clear(None)

    def retire(self, execution_id: str) -> None:
        """Take note that an execution was left behind by a reset."""
        self._retired.add(execution_id)
        if self.voice is not None and self.voice.execution_id == execution_id:
            self._clear(None)

    def _is_over(self, piece: Piece) -> bool:
        execution_id, step = self._ended
        return piece.execution_id == execution_id and piece.step <= step

    def _began(self, voice: Voice, piece: Piece) -> bool:
        before = self.voice
        if before is not None and before.execution_id == voice.execution_id and voice < before:
            return False  # of an attempt that was given up
        if before is not None and before.execution_id != voice.execution_id:
            self._retired.add(before.execution_id)
        self._clear(voice)
        self._went_on(piece)
        return True

    def _went_on(self, piece: Piece) -> bool:
        expected = len(self.pieces) + 1
        if piece.seq < expected or self._broken:
            return False
        # A text with a hole in it would say something else.
        self._broken = piece.seq > expected or self.characters + len(piece.text) > MAX_CHARACTERS
        if self._broken:
            return False
        self.pieces.append(piece)
        self.characters += len(piece.text)
        return True

    def _clear(self, voice: Voice | None) -> None:
        self.voice, self.pieces, self.characters, self._broken = voice, [], 0, False
