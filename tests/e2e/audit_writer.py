"""An auditor without a workflow, as a process that a test can kill: `python -m tests.e2e.audit_writer`.

It stands for one that was thought dead, and goes on beside its successor.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from datetime import timedelta

from perdure.audit.contracts import Anchors
from perdure.audit.facts import keyed
from perdure.audit.opening import require_store
from perdure.connection import connect
from perdure.settings import load_settings
from perdure_activities.audit import auditor as auditor_module
from perdure_activities.audit.auditor import Auditor

PAUSE = 0.05
SAVE_EVERY = timedelta(seconds=1)


async def main() -> None:
    """Audit until killed."""
    settings = load_settings()
    store = require_store(settings)
    vars(auditor_module).update(SNAPSHOT_EVERY=SAVE_EVERY, SETTLING=timedelta(0))
    auditor = Auditor(
        await connect(settings),
        store,
        await store.prepare(),
        anchors=Anchors(),
        digest=keyed(None),
        execution=f"writer-{uuid.uuid4().hex}",
    )
    await auditor.begin()
    while True:
        async for _ in auditor.sweep():
            pass
        await asyncio.sleep(PAUSE)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    finally:
        os._exit(1)
