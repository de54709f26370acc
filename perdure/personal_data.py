"""Personal data: a second stage of redaction by Presidio, for those who install the extra `pii` and switch it on.

Presidio finds e-mail addresses, phone numbers, IBANs, cards and US social security numbers by patterns and checksums.
It runs on a tokenizer without a language model, so it fetches nothing and finds no names of people or places.
"""

from __future__ import annotations

import importlib
import importlib.util
import threading
from functools import lru_cache
from typing import Any, Final

from perdure.errors import SettingsError
from perdure.redaction import SECRETS, Redactor, Stages
from perdure.settings import Settings

ENTITIES: Final = {
    "EMAIL_ADDRESS": "[email]",
    "PHONE_NUMBER": "[phone]",
    "IBAN_CODE": "[iban]",
    "CREDIT_CARD": "[card]",
    "US_SSN": "[ssn]",
}
"""What is looked for, and what stands in its place."""
SCORE: Final = 0.35
MAX_PIECE: Final = 20_000
"""Characters that are analysed at a time; a longer text is cut at a line's end, or a space."""
_MIN_DIGITS: Final = 7


def load_redactor(settings: Settings) -> Redactor:
    """Return the redactor that the settings ask for.

    Raises:
        SettingsError: They ask for Presidio, and it is not installed.
    """
    if settings.pii == "off":
        return SECRETS
    if importlib.util.find_spec("presidio_analyzer") is None:
        raise SettingsError("PERDURE_PII is 'presidio' but Presidio is missing: pip install 'perdure[pii]'")
    return _with_personal_data()


@lru_cache(maxsize=1)
def _with_personal_data() -> Redactor:
    """Return the one redactor of this process: what it loads takes a hundred megabytes."""
    return Stages(SECRETS, PersonalDataRedactor())


class PersonalDataRedactor:
    """Masks personal data. Loading Presidio takes seconds and happens at the first text that may hold any."""

    def __init__(self) -> None:
        self._analyzer: Any = None
        self._lock = threading.Lock()

    def redact(self, text: str) -> str:
        """Return the text with `[email]`, `[phone]` and the like in place of personal data."""
        if not _may_hold_any(text):
            return text
        return "".join(self._redact(piece) for piece in _pieces(text))

    def _redact(self, piece: str) -> str:
        if not _may_hold_any(piece):
            return piece
        found = self._loaded().analyze(piece, language="en", entities=list(ENTITIES), score_threshold=SCORE)
        # Where two overlap, the surer one counts, then the longer one.
        taken: list[Any] = []
        for one in sorted(found, key=lambda one: (-one.score, one.start - one.end)):
            if all(one.end <= other.start or one.start >= other.end for other in taken):
                taken.append(one)
        for one in sorted(taken, key=lambda one: one.start, reverse=True):
            piece = piece[: one.start] + ENTITIES[one.entity_type] + piece[one.end :]
        return piece

    def _loaded(self) -> Any:
        with self._lock:
            if self._analyzer is None:
                self._analyzer = _analyzer()
            return self._analyzer


def _may_hold_any(text: str) -> bool:
    """Whether a text has an at sign or as many digits as a phone number has; most texts have neither."""
    return "@" in text or sum(map(str.isdigit, text)) >= _MIN_DIGITS


def _pieces(text: str) -> list[str]:
    pieces: list[str] = []
    start = 0
    while len(text) - start > MAX_PIECE:
        end = start + MAX_PIECE
        gap = max(text.rfind("\n", start, end), text.rfind(" ", start + MAX_PIECE // 2, end))
        end = gap + 1 if gap > start else end
        pieces.append(text[start:end])
        start = end
    return [*pieces, text[start:]]


def _analyzer() -> Any:
    spacy = importlib.import_module("spacy")
    presidio = importlib.import_module("presidio_analyzer")
    engines = importlib.import_module("presidio_analyzer.nlp_engine")
    domains: Any = importlib.import_module("tldextract.tldextract")
    # The list of domains that comes with the package; left to itself it fetches a newer one with the first address.
    domains.TLD_EXTRACTOR = domains.TLDExtract(suffix_list_urls=())
    engine: Any = engines.SpacyNlpEngine()
    engine.nlp = {"en": spacy.blank("en")}
    engine.load = lambda: None
    return presidio.AnalyzerEngine(nlp_engine=engine, supported_languages=["en"])
