"""The search attributes of a run: how lists, inbox and status work without a worker, and without a table of ours."""

from __future__ import annotations

from typing import Final

from temporalio.common import SearchAttributeKey

AGENT: Final = SearchAttributeKey.for_keyword("PerdureAgent")
VERSION: Final = SearchAttributeKey.for_keyword("PerdureVersion")
USER: Final = SearchAttributeKey.for_keyword("PerdureUser")
ORG: Final = SearchAttributeKey.for_keyword("PerdureOrg")
SESSION: Final = SearchAttributeKey.for_keyword("PerdureSession")
STATUS: Final = SearchAttributeKey.for_keyword("PerdureStatus")
"""A `RunStatus`; written when a run starts to wait, is paused, goes on, and ends."""
APPROVALS: Final = SearchAttributeKey.for_keyword_list("PerdureApprovals")
"""Ids of the pending approvals, the oldest 50 of them."""
COST: Final = SearchAttributeKey.for_float("PerdureCostUsd")
"""US dollars, written with the status."""
STEPS: Final = SearchAttributeKey.for_int("PerdureSteps")
"""Model calls and tool calls, written with the status."""
ERROR: Final = SearchAttributeKey.for_keyword("PerdureError")
"""The type of the error that a run failed with, written with the status."""
ORIGIN: Final = SearchAttributeKey.for_keyword("PerdureOrigin")
"""The run that this is about: the one that a fork began in, that somebody judged, or that has something told."""
SCORE: Final = SearchAttributeKey.for_float("PerdureScore")
"""Of a feedback: how good its run was, from 0 to 1."""

PROBLEMS: Final = SearchAttributeKey.for_keyword_list("TemporalReportedProblems")
"""Temporal's own: there while a workflow's code breaks again and again, as `category=…` and `cause=…`."""

ALL: Final = (AGENT, VERSION, USER, ORG, SESSION, STATUS, APPROVALS, COST, STEPS, ERROR, ORIGIN, SCORE)

MEMO_APPROVALS: Final = "approvals"
"""Memo field: an `ApprovalsMemo`."""
MEMO_STEERING: Final = "steering"
"""Memo field: a `SteeringMemo`; there once somebody has paused the run or sent it a message."""
MEMO_BUDGET: Final = "budget"
"""Memo field: a `BudgetMemo`; there once a budget had no room."""
MEMO_DAY: Final = "day"
"""Memo field of a page of usage: the day that it is of, as in `2026-11-27`."""
MEMO_RESULT: Final = "result"
"""Memo field: the `RunResult` without its output, written as the run's last act."""
MEMO_REQUEST: Final = "request"
"""Memo field: a digest of the request that started the run, so that a repeated one is recognised."""
MEMO_INPUT: Final = "input"
"""Memo field: the first 200 characters of the input, for lists."""
MEMO_FORK: Final = "fork"
"""Memo field of a fork: its `ForkOrigin`."""
MEMO_GRANT: Final = "grant"
"""Memo field of a standing grant's own workflow: the `Grant`."""
MEMO_TRACE: Final = "trace"
"""Memo field: the id of the run's trace; there if it was started with one."""
MEMO_VERSION_SOURCE: Final = "version_source"
"""Memo field: what the run's version was chosen by, a `VersionSource`; not there for a fork."""
MEMO_STARTED: Final = "started"
"""Memo field: when the run was started, as Temporal dates each execution of a long run by its own start."""
