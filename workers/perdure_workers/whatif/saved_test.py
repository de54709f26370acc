"""A what-if as a test for pytest: readable, with the history that it plays on beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pprint import pformat
from textwrap import indent
from typing import Final

from perdure.errors import InvalidInputError, PerdureError
from perdure.messages import JsonObject
from perdure_workers.plain_text import line
from perdure_workers.whatif import OnUnknown, WhatIf
from perdure_workers.whatif.recording import RecordedTurn

WIDTH: Final = 100
REAL_MODEL: Final = "WHAT_IF_REAL_MODEL"
"""The variable that has a written test ask the model itself."""


@dataclass(frozen=True)
class SavedTest:
    """A test and the files beside it."""

    file: Path
    model: str | None
    prompt: str | None
    on_unknown: OnUnknown

    @property
    def history(self) -> Path:
        """The recorded run."""
        return self.file.with_suffix(".history.json")

    @property
    def instructions(self) -> Path:
        """The prompt, if there is another one."""
        return self.file.with_suffix(".prompt.md")

    def write(self, result: WhatIf, *, history: str) -> Iterator[Path]:
        """Write the files and yield their paths.

        Raises:
            PerdureError: One cannot be written.
        """
        files = {self.history: history + "\n", self.file: self.source(result)}
        if self.prompt is not None:
            files[self.instructions] = self.prompt
        for file, text in files.items():
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8")
            except OSError as error:
                raise PerdureError(f"cannot write {str(file)!r}: {error.strerror}") from error
            yield file

    def source(self, result: WhatIf) -> str:
        """Return the test's text."""
        model = self.model or result.recorded.arguments.spec.model
        prompt = f'(HERE / "{self.instructions.name}").read_text(encoding="utf-8")'
        arguments = [
            f'HERE / "{self.history.name}"',
            *([f"model={_literal(self.model)}"] if self.model else []),
            *([f"prompt={prompt}"] if self.prompt is not None else []),
            *(['on_unknown="error"'] if self.on_unknown == "error" else []),
            "replies=None if REAL_MODEL else REPLIES",
        ]
        call = "".join(f"            {argument},\n" for argument in arguments)
        return _TEMPLATE.format(
            title=f"What if {line(result.recorded.run_id, 64)} had been answered by {model}".replace('"', "'"),
            history=self.history.name,
            variable=REAL_MODEL,
            testing=_imports(result.offline.recording.turns),
            replies=_list([_turn(turn) for turn in result.offline.recording.turns]),
            name=re.sub(r"\W", "_", self.file.stem.removeprefix("test_")) or "what_if",
            promise=_promise(result),
            call=call,
            checks="".join(f"    {check}\n" for check in _checks(result)),
        )


def check_place(file: Path) -> None:
    """Refuse to write where a test would not be found, or where there is one.

    Raises:
        InvalidInputError: It is no such place.
    """
    if not re.fullmatch(r"test_\w+\.py", file.name):
        raise InvalidInputError(f"--save-test {str(file)!r}: pytest finds a test in a file named test_….py")
    if file.exists():
        raise InvalidInputError(f"--save-test {str(file)!r}: there is such a file already; name another one")


_TEMPLATE: Final = '''"""{title}.

Written by `perdure replay --save-test`. The run that it plays on is in {history}; no tool is called.
The model's replies are those that the what-if got. With {variable} in the environment the model itself
is asked, which costs money.
"""

import asyncio
import os
from pathlib import Path

from perdure.testing import {testing}
from perdure_workers.whatif import what_if

HERE = Path(__file__).parent
REAL_MODEL = "{variable}" in os.environ
REPLIES = {replies}


def test_{name}() -> None:
    """{promise}"""
    result = asyncio.run(
        what_if(
{call}        )
    )

{checks}'''


def _promise(result: WhatIf) -> str:
    calls = ", then ".join(dict.fromkeys(name for name, _ in result.tool_calls))
    does = f"calls {calls}" if calls else "calls nothing"
    ends = "and answers" if result.status == "completed" else f"and ends as {result.status}"
    return line(f"The agent {does}, {ends}.", 90).replace('"', "'")


def _checks(result: WhatIf) -> Iterator[str]:
    if result.status not in ("failed", "out_of_budget"):  # why these came about is not in the replies
        yield f"assert result.status == {_literal(result.status)}"
    calls = _list([f"({_literal(name)}, {_literal(arguments)})" for name, arguments in result.tool_calls])
    yield f"assert result.tool_calls == {indent(calls, '    ').lstrip()}"
    if result.comparison.unknown:
        unknown = [f"({_literal(one.tool)}, {_literal(one.arguments)})" for one in result.offline.unknown]
        listed = indent(_list(unknown), "    ").lstrip()
        yield f"assert [(one.tool, one.arguments) for one in result.offline.unknown] == {listed}"
    if result.answer is not None:
        yield "if not REAL_MODEL:  # which never says it twice in the same words"
        yield f"    assert result.answer == {_text(result.answer, '        ')}"


def _imports(turns: list[RecordedTurn]) -> str:
    calls = ["Call"] if any(turn.message.tool_calls for turn in turns) else []
    finish = ["Finish"] if any("finish=" in _turn(turn) for turn in turns) else []
    return ", ".join([*calls, *finish, "Turn"])


def _turn(turn: RecordedTurn) -> str:
    message = turn.message
    parts = [_text(message.text, "        ")] if message.text else []
    calls = [
        _call(part.name, part.arguments) if part.malformed is None else _malformed(part.name, part.malformed)
        for part in message.tool_calls
    ]
    if calls:
        parts.append(f"calls={indent(_list(calls), '    ').lstrip()}")
    usual = "tool_calls" if calls else "stop"
    if turn.finish != usual:
        parts.append(f"finish=Finish.{turn.finish.upper()}")
    return f"Turn({', '.join(parts)})"


def _call(name: str, arguments: JsonObject) -> str:
    return f"Call({_literal(name)}, {_literal(arguments)})" if arguments else f"Call({_literal(name)})"


def _malformed(name: str, malformed: str) -> str:
    return f"Call({_literal(name)}, malformed={_literal(malformed)})"


def _list(items: list[str]) -> str:
    if not items:
        return "[]"
    flat = f"[{', '.join(items)}]"
    if len(flat) < WIDTH - 20 and "\n" not in flat:
        return flat
    return "[\n" + "".join(f"{indent(item, '    ')},\n" for item in items) + "]"


def _literal(value: object) -> str:
    """Write a JSON value as Python does, with the quotes that formatters want."""
    return (
        json.dumps(value, ensure_ascii=False)
        if isinstance(value, str)
        else pformat(value, width=WIDTH, sort_dicts=False)
    )


def _text(text: str, margin: str) -> str:
    """Write a text, a long one in several lines."""
    if len(text) < WIDTH - 30 and "\n" not in text:
        return _literal(text)
    pieces = [piece for part in text.splitlines(keepends=True) for piece in _pieces(part)]
    return "(\n" + "".join(f"{margin}{_literal(piece)}\n" for piece in pieces) + f"{margin[:-4]})"


def _pieces(text: str, size: int = 80) -> Iterator[str]:
    for start in range(0, len(text), size):
        yield text[start : start + size]
