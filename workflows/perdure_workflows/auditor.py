"""The auditor as a workflow: one in a namespace, whose body is one long activity after another.

It does three things that the activity cannot. Temporal runs the activity again elsewhere when its worker dies. The ends
of the chains are kept in the memo, out of reach of whoever can write to the store. And failed logins, which have no
history of their own, are signals in this one; the activity reads them there as it reads any other history.
"""

from __future__ import annotations

from datetime import timedelta
from typing import NoReturn

from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy
from temporalio.exceptions import ActivityError
from temporalio.workflow import ActivityCancellationType

with workflow.unsafe.imports_passed_through():
    from perdure.audit.contracts import AUDITOR_WORKFLOW, MEMO_ANCHORS, AuditorState, Stretch, audit
    from perdure.audit.login import LOGIN_FAILED
    from perdure_workflows.signals import NO_PAYLOAD

HEARTBEAT_TIMEOUT = timedelta(seconds=10)
"""It beats once a second; appending to a slow store may take a few."""
LONGEST_TURN = timedelta(hours=3)
"""More than the activity takes by its own account, with the work that it has begun."""
PAUSE = timedelta(seconds=30)
"""After a failure that is not tried again, until it is."""
MAX_SIGNALS = 2000
"""The server takes 10,000 in one execution."""
_RETRIES = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30))


@workflow.defn(name=AUDITOR_WORKFLOW)
class Auditor:
    """Has the activity `audit` run for as long as there are workers."""

    @workflow.init
    def __init__(self, state: AuditorState) -> None:
        self._state = state
        self._signals = 0

    @workflow.run
    async def run(self, state: AuditorState) -> None:
        """Have it run once, and continue as new."""
        del state  # taken by __init__
        turn = workflow.start_activity(
            audit,
            self._state,
            start_to_close_timeout=LONGEST_TURN,
            heartbeat_timeout=HEARTBEAT_TIMEOUT,
            retry_policy=_RETRIES,
            cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            summary="audit",
        )
        await workflow.wait_condition(lambda: turn.done() or self._is_full)
        if self._is_full:
            turn.cancel()
        try:
            stretch = await turn
        except ActivityError as error:  # it was cancelled before a worker took it up, or refused for good
            stretch = Stretch()
            if not self._is_full:
                workflow.logger.error("the audit fails: %s", error)
                await workflow.sleep(PAUSE, summary="the audit failed")
        self._continue_as_new(stretch)

    @workflow.signal(name=LOGIN_FAILED, description='{"failures": [{"reason": "…", "address": "…", "count": 1}]}')
    def login_failed(self, failures: RawValue = NO_PAYLOAD) -> None:
        """Keep failed logins, in the history alone."""
        del failures
        self._signals += 1

    @property
    def _is_full(self) -> bool:
        return self._signals >= MAX_SIGNALS or workflow.info().is_continue_as_new_suggested()

    def _continue_as_new(self, stretch: Stretch) -> NoReturn:
        anchors = self._state.anchors.moved(stretch.anchors)
        workflow.continue_as_new(AuditorState(anchors=anchors), memo={MEMO_ANCHORS: anchors})
