"""What-if: a run once more, offline, with another model or prompt, on the tool results that it recorded.

from perdure_workers.whatif import what_if

result = await what_if("run.json", model="openai:gpt-5", prompt="Be brief.")
assert result.comparison.what_if.answer == "It left on Monday."
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from temporalio.client import WorkflowHistory

from perdure.errors import HistoryFileError
from perdure.events import RunEvent
from perdure.history import load
from perdure.messages import JsonObject
from perdure.redaction import SECRETS, Redactor
from perdure.settings import Price
from perdure.testing import Turn
from perdure_activities.providers.provider import Provider
from perdure_activities.providers.registry import default_providers
from perdure_workers.whatif.comparison import Comparison, compare
from perdure_workers.whatif.offline_run import Change, OfflineRun, run_offline
from perdure_workers.whatif.playback import OnUnknown
from perdure_workers.whatif.recording import Recording, read_recording
from perdure_workers.whatif.scripted import ScriptedReplies

__all__ = ["Change", "Comparison", "OnUnknown", "WhatIf", "what_if"]


@dataclass(frozen=True)
class WhatIf:
    """What a what-if came to."""

    comparison: Comparison
    recorded: Recording
    offline: OfflineRun

    @property
    def tool_calls(self) -> list[tuple[str, JsonObject]]:
        """The calls that the model made, in order."""
        turns = self.offline.recording.turns
        return [(call.name, call.arguments) for turn in turns for call in turn.message.tool_calls]

    @property
    def answer(self) -> str | None:
        """The answer; None if it came to none."""
        return self.comparison.what_if.answer

    @property
    def status(self) -> str:
        """How it ended, as `ComparedRun.status`."""
        return self.comparison.what_if.status


async def what_if(
    run: Path | str | Sequence[WorkflowHistory],
    *,
    model: str | None = None,
    prompt: str | None = None,
    replies: Sequence[Turn] | None = None,
    on_unknown: OnUnknown = "stop",
    max_cost: Decimal | None = None,
    providers: Mapping[str, Provider] | None = None,
    prices: Mapping[str, Price] | None = None,
    told: Callable[[RunEvent], None] = lambda _: None,
    redactor: Redactor = SECRETS,
) -> WhatIf:
    """Run an agent again on what a recorded run knows. No tool is called.

    Args:
        run: A file of `perdure runs export`, or histories.
        model: `provider:model`; default: as recorded.
        prompt: The instructions; default: as recorded.
        replies: What the model says, in place of asking it; costs nothing.
        on_unknown: At a call that the recording does not know: stop, or answer it with an error and go on.
        max_cost: A model call that could cost more, in US dollars with all before it, is not made.
        providers: Model providers by prefix; default: the built-in ones.
        prices: The operator's own, by model reference.
        told: Called with each event as it happens.
        redactor: Masks what must not be shown.

    Raises:
        HistoryFileError: The file is no history of a run, or its beginning is gone.
        InvalidInputError: The limit of the cost cannot be kept, as nobody has a price for the model.
        ConfigurationError: There is no program `temporal`.
        ProcessError: The server does not come up, or the run's code fails.
    """
    histories = _load(Path(run)) if isinstance(run, str | Path) else list(run)
    recording = read_recording(histories)
    change = Change(model=model, instructions=prompt)
    if replies is not None:
        asked = model or recording.arguments.spec.model
        providers = {asked.partition(":")[0]: ScriptedReplies(replies)}
        change = Change(model=asked, instructions=prompt)  # without fallbacks, which have other prefixes
    offline = await run_offline(
        recording,
        change,
        providers=default_providers() if providers is None else providers,
        prices=prices or {},
        on_unknown=on_unknown,
        max_cost=max_cost,
        told=told,
        redactor=redactor,
    )
    return WhatIf(compare(recording, histories, offline, redactor=redactor), recording, offline)


def _load(file: Path) -> list[WorkflowHistory]:
    try:
        return load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise HistoryFileError(f"cannot read {str(file)!r}: {error}") from error
