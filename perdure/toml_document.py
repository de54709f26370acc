"""TOML, with the line of each part: the standard library reads it, and says the line of a syntax error alone."""

from __future__ import annotations

import re
import tomllib
from typing import Final

from perdure.errors import PolicyError
from perdure.messages import JsonObject

_AT: Final = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_TEXT: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})|\'\'\'.*?\'\'\'(?:\'{0,2})|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'', re.DOTALL
)
_GAP: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE: Final = re.compile(r"[ \t]*")
_PLAIN: Final = re.compile(r"[^,\]}#\n]*")

Place = tuple[str | int, ...]


def read_toml(text: str, file: str) -> tuple[JsonObject, dict[Place, int]]:
    """Read a document, and the line of each of its parts.

    Args:
        text: The document.
        file: Its name, for errors.

    Raises:
        PolicyError: It is no TOML.
    """
    text = text.replace("\r\n", "\n")
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _AT.search(str(error))
        line = int(found[1]) if found and found[1] else text.rstrip("\n").count("\n") + 1
        raise PolicyError(f"is no TOML: {_AT.sub('', str(error))}", file=file, line=line) from error
    except RecursionError as error:
        raise PolicyError("is nested too deep", file=file) from error
    return content, _Lines(text).found


class _Lines:
    """Goes through good TOML and notes where each part begins."""

    def __init__(self, text: str) -> None:
        self.found: dict[Place, int] = {}
        self._text = text
        self._at = 0
        self._elements: dict[Place, int] = {}
        """How many tables the arrays of tables have by now."""
        table: Place = ()
        while self._skip(_GAP) < len(text):
            if text[self._at] == "[":
                table = self._header()
            else:
                self._assignment(table)

    def _header(self) -> Place:
        """Read `[a.b]` or `[[a.b]]`, and return the table that it opens."""
        of_array = self._text.startswith("[[", self._at)
        line = self._line
        self._at += 1 + of_array
        *around, last = self._key()
        self._at += 1 + of_array
        place: Place = ()
        for name in around:
            place = self._innermost((*place, name), line)
        place = (*place, last)
        if of_array:
            self._elements[place] = self._elements.get(place, 0) + 1
        return self._innermost(place, line)

    def _innermost(self, place: Place, line: int) -> Place:
        """Return a table, or the latest one of an array of tables, and note where it was first seen."""
        self.found.setdefault(place, line)
        if place in self._elements:
            place = (*place, self._elements[place] - 1)
            self.found.setdefault(place, line)
        return place

    def _assignment(self, table: Place) -> None:
        line, place = self._line, table
        for name in self._key():
            place = (*place, name)
            self.found.setdefault(place, line)
        self._at += 1  # the equals sign
        self._skip(_SPACE)
        self._value(place)

    def _key(self) -> list[str]:
        names = []
        while True:
            self._skip(_SPACE)
            if (bare := _BARE.match(self._text, self._at)) is not None:
                names.append(bare[0])
                self._at = bare.end()
            else:
                begin = self._at
                self._skip(_TEXT)
                names.append(tomllib.loads(f"text = {self._text[begin : self._at]}")["text"])
            self._skip(_SPACE)
            if self._text[self._at] != ".":
                return names
            self._at += 1

    def _value(self, place: Place) -> None:
        match self._text[self._at]:
            case "[":
                self._array(place)
            case "{":
                self._inline_table(place)
            case '"' | "'":
                self._skip(_TEXT)
            case _:
                self._skip(_PLAIN)

    def _array(self, place: Place) -> None:
        self._at += 1
        index = 0
        while self._text[self._skip(_GAP)] != "]":
            if self._text[self._at] == ",":
                self._at += 1
                continue
            self.found[(*place, index)] = self._line
            self._value((*place, index))
            index += 1
        self._at += 1

    def _inline_table(self, place: Place) -> None:
        self._at += 1
        while self._text[self._skip(_GAP)] != "}":
            if self._text[self._at] == ",":
                self._at += 1
                continue
            self._assignment(place)
        self._at += 1

    @property
    def _line(self) -> int:
        return self._text.count("\n", 0, self._at) + 1

    def _skip(self, pattern: re.Pattern[str]) -> int:
        """Go behind what the pattern matches here, and return where that is."""
        found = pattern.match(self._text, self._at)
        self._at = found.end() if found else self._at
        return self._at
