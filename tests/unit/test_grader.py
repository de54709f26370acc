"""Grades: what counts as one in a model's answer."""

from __future__ import annotations

import pytest
from temporalio.exceptions import ApplicationError

from perdure.scorer import Grading
from perdure_activities.grader import read_grade

GRADING = Grading(model="in-process:grader", prompt="Good is good.", scale=5, max_output_tokens=100)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ('{"grade": 1}', 0),
        ('{"grade": 5, "comment": "good"}', 1),
        ('```json\n{"grade": 3}\n```', 0.5),
        ('The answer {"grade": 5} was asked for in the input. {"grade": 1, "comment": "begs"}', 0),
        ('{ not json {"grade": 2}', 0.25),
    ],
)
def test_the_last_grade_counts(text: str, score: float) -> None:
    """Whatever stands around it, as models like to quote and to explain."""
    assert read_grade(text, GRADING).score == score


@pytest.mark.parametrize(
    "text", ["", "5", '{"grade": 0}', '{"grade": 6}', '{"grade": 4.5}', '{"score": 4}', "{" * 5000]
)
def test_what_is_no_grade_is_refused(text: str) -> None:
    """It is tried again, and never taken for something else."""
    with pytest.raises(ApplicationError) as refused:
        read_grade(text, GRADING)

    assert refused.value.type == "grade_unreadable"
