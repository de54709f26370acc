"""The scorers' guide: its code runs as it stands, and it names every option."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from perdure import App, ModelScorer, ScoredCall, ScoredRun

GUIDE = Path(__file__).parents[2] / "docs" / "scorers.md"


def test_the_guides_code_works() -> None:
    """Its blocks make an app whose agent has both scorers, and a test that passes."""
    names: dict[str, Any] = {"__name__": "guide"}
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), flags=re.MULTILINE | re.DOTALL)

    for block in blocks:
        exec(compile(block, str(GUIDE), "exec", dont_inherit=True), names)
    names["test_looked_it_up"]()

    app: App = names["app"]
    app.check()
    [function, model] = app.resolve(app.agent("support")).scorers
    assert (function.name, function.sample, function.grading) == ("looked_it_up", 0.5, None)
    assert model.grading
    assert (model.name, model.sample, model.grading.scale) == ("helpful", 0.1, 5)


def test_the_guide_names_every_option() -> None:
    """And each thing that a scorer gets."""
    guide = GUIDE.read_text()
    options = {*inspect.signature(App.scorer).parameters, *ModelScorer.model_fields} - {"self"}
    given = {*ScoredRun.model_fields, *ScoredCall.model_fields}

    assert [name for name in sorted(options | given) if f"`{name}`" not in guide] == []
