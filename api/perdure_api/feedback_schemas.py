"""What callers send and get about feedback."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from perdure.feedback import MAX_COMMENT, Feedback, Score
from perdure_api.schemas import Answer, Request
from perdure_api.text import Line, Text


class FeedbackRequest(Request):
    """What somebody thinks of a run: a score, words, or both."""

    score: Score | None = None
    """How good the run was, from 0 to 1."""
    thumbs: Literal["up", "down"] | None = None
    """In place of a score: 1 or 0."""
    comment: Annotated[Text, Field(max_length=MAX_COMMENT)] = ""
    by: Line | None = None
    """The caller, if it is known who that is."""

    @model_validator(mode="after")
    def _says_something_once(self) -> FeedbackRequest:
        if self.score is not None and self.thumbs is not None:
            raise ValueError("score and thumbs say the same thing; send one of them")
        if self.value is None and not self.comment.strip():
            raise ValueError("there is nothing in it; send a score, thumbs or a comment")
        return self

    @property
    def value(self) -> float | None:
        """The score, however it was given."""
        return self.score if self.thumbs is None else float(self.thumbs == "up")


class FeedbackList(Answer):
    """What people and scorers think of a run, the latest first."""

    items: tuple[Feedback, ...]
