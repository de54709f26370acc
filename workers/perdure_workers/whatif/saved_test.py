"""A what-if as a test for pytest: readable, with the history that it plays on beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from perdure.errors import InvalidInputError, PerdureError
from perdure.messages import ToolCallPart
from perdure_workers.plain_text import line
from perdure_workers.whatif import OnUnknown, WhatIf
from perdure_workers.whatif.python_source import CallTo, Name, source
from perdure_workers.whatif.recording import RecordedTurn

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
        turns = result.offline.recording.turns
        model = self.model or result.recorded.arguments.spec.model
        named: dict[str, object] = {}
        if self.model:
            named["model"] = self.model
        if self.prompt is not None:
            named["prompt"] = Name(f'(HERE / "{self.instructions.name}").read_text(encoding="utf-8")')
        if self.on_unknown == "error":
            named["on_unknown"] = "error"
        named["replies"] = Name("None if REAL_MODEL else REPLIES")
        call = CallTo("what_if", [Name(f'HERE / "{self.history.name}"')], named)
        return _TEMPLATE.format(
            title=f"What if {line(result.recorded.run_id, 64)} had been answered by {model}".replace('"', "'"),
            history=self.history.name,
            variable=REAL_MODEL,
            testing=_imports(turns),
            replies=source([_turn(turn) for turn in turns], before=len("REPLIES = ")),
            name=re.sub(r"\W", "_", self.file.stem.removeprefix("test_")) or "what_if",
            promise=_promise(result),
            call=source(CallTo("asyncio.run", [call]), margin=4, before=len("result = ")),
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
    result = {call}

{checks}'''


def _promise(result: WhatIf) -> str:
    calls = ", then ".join(dict.fromkeys(name for name, _ in result.tool_calls))
    does = f"calls {calls}" if calls else "calls nothing"
    ends = "answers" if result.status == "completed" else f"ends as {result.status}"
    return line(f"The agent {does}, and {ends}.", 90).replace('"', "'").replace("\\", "/")


def _checks(result: WhatIf) -> Iterator[str]:
    yield _is("result.status", result.status)
    yield _is("result.tool_calls", result.tool_calls)
    if result.offline.unknown:
        unknown = [(one.tool, one.arguments) for one in result.offline.unknown]
        yield _is("[(one.tool, one.arguments) for one in result.offline.unknown]", unknown)
    if result.answer is not None:
        yield "if not REAL_MODEL:  # which never says it twice in the same words"
        yield f"    {_is('result.answer', result.answer, margin=8)}"


def _is(what: str, value: object, *, margin: int = 4) -> str:
    begin = f"assert {what} == "
    return begin + source(value, margin=margin, before=len(begin))


def _imports(turns: list[RecordedTurn]) -> str:
    calls = ["Call"] if any(turn.message.tool_calls for turn in turns) else []
    finish = ["Finish"] if any("finish" in _turn(turn).named for turn in turns) else []
    return ", ".join([*calls, *finish, "Turn"])


def _turn(turn: RecordedTurn) -> CallTo:
    message = turn.message
    named: dict[str, object] = {}
    if message.tool_calls:
        named["calls"] = [_call(part) for part in message.tool_calls]
    if turn.finish != ("tool_calls" if message.tool_calls else "stop"):
        named["finish"] = Name(f"Finish.{turn.finish.upper()}")
    return CallTo("Turn", [message.text] if message.text else [], named)


def _call(part: ToolCallPart) -> CallTo:
    if part.malformed is not None:
        return CallTo("Call", [part.name], {"malformed": part.malformed})
    return CallTo("Call", [part.name, part.arguments] if part.arguments else [part.name])
