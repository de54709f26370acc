"""What a model says while it says it: pieces of text beside a run's history, which no event of it is lost without."""

from perdure.deltas.delta import ATTEMPT_RESET, DELTA, AttemptReset, Delta, DeltaBus, Piece
from perdure.deltas.memory import MemoryBus
from perdure.deltas.speech import Speech

__all__ = ["ATTEMPT_RESET", "DELTA", "AttemptReset", "Delta", "DeltaBus", "MemoryBus", "Piece", "Speech"]
