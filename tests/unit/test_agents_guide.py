"""The guide's code, run as it stands."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from perdure import Agent, App, Limits, ToolContext

GUIDE = Path(__file__).parents[2] / "docs" / "agents.md"


async def test_the_guides_code_works() -> None:
    """Its blocks make an app that resolves, tests that pass, and a worker that could be started."""
    names: dict[str, Any] = {"__name__": "guide"}
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), flags=re.MULTILINE | re.DOTALL)

    for block in blocks:
        exec(compile(block, str(GUIDE), "exec", dont_inherit=True), names)
    await names["test_refund"]()

    app: App = names["app"]
    app.check()
    assert [tool.spec.name for tool in app.tools()] == ["refund_order"]
    assert callable(names["serve"])


def test_the_guide_names_every_option() -> None:
    """Each option of a tool, an agent and their limits is in the guide."""
    guide = GUIDE.read_text()
    options = {*inspect.signature(App.tool).parameters, *Agent.model_fields, *Limits.model_fields} - {"self"}
    context = {name for name in dir(ToolContext) if not name.startswith("_")} | {
        name for name in ToolContext.__dataclass_fields__ if not name.startswith("_")
    }

    missing = [name for name in sorted(options | context) if not re.search(rf"`[^`]*\b{name}\b[^`]*`", guide)]

    assert missing == []
