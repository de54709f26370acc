"""Output guards at work: on a whole text, and on one that arrives in pieces, with the same outcome however it is cut.

A guard holds back what may be the beginning of a match, and nothing else: text is passed on as soon as no match can
begin in it any more. Not for workflow code.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import regex

from perdure.guard import Guard
from perdure.guard_pattern import compiled, unbound

TIME_LIMIT: Final = 1.0
"""Seconds of CPU, as `regex` counts them, that one guard may look at one text."""


class GuardTimeoutError(Exception):
    """An output guard took too long on a text."""


class StreamGuard:
    """Lets text pass that arrives in pieces, masked, up to where a guard blocks it."""

    def __init__(self, guards: Sequence[Guard]) -> None:
        """Begin a text.

        Args:
            guards: Applied one after the other, as they are to a whole text.
        """
        self._screens = [_Screen(guard) for guard in guards]

    @property
    def blocked_by(self) -> str:
        """The name of the guard that blocks the text; empty while none does."""
        return next((screen.guard.name for screen in self._screens if screen.blocked), "")

    def feed(self, delta: str) -> str:
        """Take in a piece, and return what may be shown now; nothing once the text is blocked.

        Raises:
            GuardTimeoutError: A guard took too long.
        """
        for screen in self._screens:
            delta = screen.feed(delta)
        return "" if self.blocked_by else delta

    def flush(self) -> str:
        """Return what is left to show, as the text is complete; raises as `feed`."""
        passed = ""
        for screen in self._screens:
            passed = screen.feed(passed) + screen.flush()
        return "" if self.blocked_by else passed


class _Screen:
    """One guard, over one text."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.blocked = False
        self._pattern = compiled(guard.pattern)
        self._opening = unbound(guard.pattern)
        self._text = ""
        self._passed = 0
        """How much of the text has been passed on; the rest is held back."""
        self._open = 0
        """Where a match may begin that is not over yet; none does before."""

    def feed(self, delta: str) -> str:
        self._text += delta
        return self._settle(final=False)

    def flush(self) -> str:
        return self._settle(final=True)

    def _settle(self, *, final: bool) -> str:
        passed: list[str] = []
        while not self.blocked:
            self._open = len(self._text) if final else self._first_open()
            match = self._search()
            if match is None or match.start() >= self._open:
                break
            passed += [self._text[self._passed : match.start()], self.guard.mask]
            self._passed = match.end()
            self._open = max(self._open, match.end())
            self.blocked = self.guard.action == "block"
        if self.blocked:
            return ""
        passed.append(self._text[self._passed : self._open])
        # One character stays, as `\b` looks at what is before a match.
        forgotten = max(0, self._open - 1)
        self._text = self._text[forgotten:]
        self._passed = self._open = self._open - forgotten
        return "".join(passed)

    def _first_open(self) -> int:
        """Return where the first match begins that more text could complete, or change."""
        place = self._open
        while place < len(self._text) and not self._may_go_on(place):
            place += 1
        return place

    def _may_go_on(self, place: int) -> bool:
        try:
            return self._opening.fullmatch(self._text, place, partial=True, timeout=TIME_LIMIT) is not None
        except TimeoutError as error:
            raise _too_slow(self.guard) from error

    def _search(self) -> regex.Match[str] | None:
        try:
            return self._pattern.search(self._text, self._passed, timeout=TIME_LIMIT)
        except TimeoutError as error:
            raise _too_slow(self.guard) from error


def matches(guard: Guard, text: str) -> list[tuple[int, int]]:
    """Return where a guard's pattern is found in a whole text.

    Raises:
        GuardTimeoutError: It took too long.
    """
    try:
        found: Iterable[regex.Match[str]] = compiled(guard.pattern).finditer(text, timeout=TIME_LIMIT, concurrent=True)
        return [match.span() for match in found]
    except TimeoutError as error:
        raise _too_slow(guard) from error


def _too_slow(guard: Guard) -> GuardTimeoutError:
    return GuardTimeoutError(f"the output guard {guard.name!r} took longer than {TIME_LIMIT:g} s on a text")
