"""Redaction of a text that arrives in pieces: what is passed on is, however it is cut, a beginning of the whole's.

`mask_forms` is a row of passes over a text, and this is the same row with a memory between them: each takes in what the
one before passes on, and holds back what may turn out to be a part of a secret. Not for workflow code.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple, Protocol

import regex

from perdure.secret_forms import (
    BARE_NAME,
    BARE_VALUE,
    CARD,
    FORMS,
    HEADER,
    HEADER_NAME,
    NAME,
    QUOTED_NAME,
    QUOTED_VALUE,
    Form,
    mask_bare,
    mask_card,
    mask_header,
    mask_quoted,
)
from perdure.secret_names import is_secret_name


class StreamRedactor:
    """Masks secrets in one text that arrives in pieces."""

    def __init__(self) -> None:
        """Begin a text."""
        self._passes = [_Pass(search) for search in _searches()]

    def feed(self, delta: str) -> str:
        """Take in a piece, and return what may be seen now."""
        for each in self._passes:
            delta = each.feed(delta, final=False)
        return delta

    def flush(self) -> str:
        """Return what is left, as the text is complete; of one that was broken off it may show half a secret."""
        left = ""
        for each in self._passes:
            left = each.feed(left, final=True)
        return left


class _Masked(NamedTuple):
    """A stretch of text, and what takes its place; the search goes on behind it."""

    start: int
    end: int
    instead: str


class _Open(NamedTuple):
    """All there is to be found by now."""

    place: int
    """Nothing begins before that could still become a secret."""
    shown: int
    """What is before stays as it is, whatever comes."""


class _Search(Protocol):
    def __call__(self, text: str, place: int, *, final: bool) -> _Masked | _Open:
        """Look for the first secret at or behind a place; final: nothing more comes."""
        ...


class _Pass:
    """One pass over a text. It keeps what is not passed on, or may be the beginning of something."""

    def __init__(self, search: _Search) -> None:
        self._search = search
        self._text = ""
        self._passed = 0
        self._place = 0

    def feed(self, delta: str, *, final: bool) -> str:
        if not delta and not final:
            return ""
        self._text += delta
        passed: list[str] = []
        while isinstance(found := self._search(self._text, self._place, final=final), _Masked):
            passed += [self._text[self._passed : found.start], found.instead]
            self._passed = self._place = found.end
        if found.shown > self._passed:
            passed.append(self._text[self._passed : found.shown])
            self._passed = found.shown
        self._place = found.place
        # One character stays, as patterns look at what is before them.
        forgotten = max(0, min(self._passed, self._place) - 1)
        self._text = self._text[forgotten:]
        self._passed -= forgotten
        self._place -= forgotten
        return "".join(passed)


@lru_cache(maxsize=1)
def _searches() -> tuple[_Search, ...]:
    quoted = _Named(
        QUOTED_NAME,
        begins=re.compile(r"""[\\"']"""),
        # Wider than a name: whether its quotes are the same is not looked at.
        begun=re.compile(rf"""\\{{0,8}}(?:["'](?:{NAME}(?:\\{{0,8}}(?:["'](?:\s{{0,8}}(?::\s{{0,8}})?)?)?)?)?)?"""),
        value=_quoted_value_is_open,
        mask=mask_quoted,
    )
    bare = _Named(
        BARE_NAME,
        begins=re.compile(r"(?<![A-Za-z0-9_.-])[A-Za-z]"),
        begun=re.compile(rf"{NAME}(?:\s{{0,4}}(?:[=:]\s{{0,4}})?)?"),
        value=_bare_value_is_open,
        mask=mask_bare,
    )
    return (*(_OfForm(form) for form in FORMS), quoted, _find_header, bare, _find_card)


class _OfForm:
    """Finds secrets of one form."""

    def __init__(self, form: Form) -> None:
        leads = form.leads or form.hints
        self._leads = re.compile("|".join(map(re.escape, leads)))
        self._pattern = re.compile(form.source)
        # `regex` regards the end of a text as known, so what looks beyond a match is left out; and its white space
        # lacks four characters of the standard library's, which all our forms have in brackets.
        begun = re.sub(r"\(\?=[^()]*\)$", "", form.source).replace(r"\s", r"\s\x1c-\x1f")
        self._begun = regex.compile(begun)
        self._replace = form.replace
        self._tails = _beginnings(leads)

    def __call__(self, text: str, place: int, *, final: bool) -> _Masked | _Open:
        while lead := self._leads.search(text, place):
            start = lead.start()
            if not final and self._begun.fullmatch(text, start, partial=True):
                return _Open(start, start)
            if match := self._pattern.match(text, start):
                return _Masked(start, match.end(), self._replace(match))
            place = start + 1
        return _behind(text, place, self._tails, final=final)


class _Named:
    """Finds values behind the names of secrets. The names themselves are shown, and so is what is before a value."""

    def __init__(
        self,
        name: re.Pattern[str],
        *,
        begins: re.Pattern[str],
        begun: re.Pattern[str],
        value: Callable[[str, int], bool],
        mask: Callable[[str, re.Match[str]], tuple[str, int]],
    ) -> None:
        """Describe the names.

        Args:
            name: Of anything, up to its value.
            begins: Its first character.
            begun: It, or any beginning of it.
            value: Whether the value that begins at a place may go on behind the text's end.
            mask: Returns what takes the value's place, and where the value ends.
        """
        self._name, self._begins, self._begun, self._value, self._mask = name, begins, begun, value, mask

    def __call__(self, text: str, place: int, *, final: bool) -> _Masked | _Open:
        while begin := self._begins.search(text, place):
            start = begin.start()
            begun = self._begun.match(text, start)
            if not final and begun and begun.end() == len(text):
                return _Open(start, len(text))
            name = self._name.match(text, start)
            if name is None:
                place = start + 1
                continue
            place = name.end()
            if is_secret_name(name["name"]):
                if not final and self._value(text, place):
                    return _Open(start, place)
                instead, end = self._mask(text, name)
                if end > place:
                    return _Masked(place, end, instead)
        return _Open(len(text), len(text))


_BEGUN_QUOTED: Final = re.compile(r"""\\{1,8}["']?|["']\\?|-""")
_BEGUN_BARE: Final = re.compile(r"""["']""")


def _quoted_value_is_open(text: str, place: int) -> bool:
    value = QUOTED_VALUE.match(text, place)
    if value is None:
        return place == len(text) or _BEGUN_QUOTED.fullmatch(text, place) is not None
    return text[value.end() :] in ("", "\\")


def _bare_value_is_open(text: str, place: int) -> bool:
    value = BARE_VALUE.match(text, place)
    if value is None:
        return place == len(text) or _BEGUN_BARE.fullmatch(text, place) is not None
    return value.end() == len(text)


_HEADER_BEGINS: Final = re.compile(HEADER_NAME)
_HEADER_BEGUN: Final = re.compile(rf"(?:{HEADER_NAME})(?:\s{{0,4}}(?::\s{{0,4}})?)?")


def _beginnings(leads: tuple[str, ...]) -> tuple[str, ...]:
    """Return what a text ends with that one of these texts may go on from, the longest first."""
    found = {lead[:length] for lead in leads for length in range(1, len(lead))}
    return tuple(sorted(found, key=len, reverse=True))


def _behind(text: str, place: int, tails: tuple[str, ...], *, final: bool) -> _Open:
    """Return where the text's end may be a beginning; nothing whole is in it."""
    room = 0 if final else len(text) - place
    held = next((len(tail) for tail in tails if len(tail) <= room and text.endswith(tail)), 0)
    return _Open(len(text) - held, len(text) - held)


_HEADER_TAILS: Final = _beginnings(("cookie", "authorization"))


def _find_header(text: str, place: int, *, final: bool) -> _Masked | _Open:
    while begin := _HEADER_BEGINS.search(text, place):
        start = begin.start()
        begun = _HEADER_BEGUN.match(text, start)
        if not final and begun and begun.end() == len(text):
            # The white space behind it is the value, if nothing else comes.
            return _Open(start, start + len(begun.group().rstrip()))
        header = HEADER.match(text, start)
        if header is None:
            place = start + 1
            continue
        value = header.start(2)
        if not final and header.end() == len(text):
            return _Open(start, value)
        return _Masked(value, header.end(), mask_header(header)[value - start :])
    lower = "".join(one.lower() if one.isascii() else one for one in text)
    return _behind(lower, place, _HEADER_TAILS, final=final)._replace(shown=len(text))


_CARD_BEGINS: Final = re.compile(r"(?<![\w.-])[2-6]")
_CARD_RUN: Final = re.compile(r"[0-9 -]*+")


def _find_card(text: str, place: int, *, final: bool) -> _Masked | _Open:
    while begin := _CARD_BEGINS.search(text, place):
        start = begin.start()
        run = _CARD_RUN.match(text, start)
        rest = text[run.end() :] if run else ""
        if not final and rest in ("", "."):  # of what follows a card, a point and one more character count
            return _Open(start, start)
        if card := CARD.match(text, start):
            return _Masked(start, card.end(), mask_card(card))
        place = start + 1
    return _Open(len(text), len(text))
