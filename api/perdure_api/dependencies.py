"""What routes take from the application and from the path."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Request

from perdure_api.feeds import Feeds
from perdure_api.runs import Runs
from perdure_api.text import APPROVAL_ID_PATTERN, GRANT_ID_PATTERN, RUN_ID_PATTERN


def _runs(request: Request) -> Runs:
    runs: Runs = request.app.state.runs
    return runs


def _feeds(request: Request) -> Feeds:
    feeds: Feeds = request.app.state.feeds
    return feeds


SharedFeeds = Annotated[Feeds, Depends(_feeds)]
Gateway = Annotated[Runs, Depends(_runs)]
RunId = Annotated[str, Path(pattern=RUN_ID_PATTERN, description="The run's id, which is Temporal's workflow id.")]
GrantId = Annotated[str, Path(pattern=GRANT_ID_PATTERN, description="The grant's id.")]
ApprovalId = Annotated[str, Path(pattern=APPROVAL_ID_PATTERN, description="The approval's id.")]
