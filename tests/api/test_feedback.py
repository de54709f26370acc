"""Feedback over HTTP and by a gateway: given, replaced, taken back, kept apart by organisation, and redacted."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.testing import eventually
from tests.api.conftest import Api, bearer
from tests.harness import answer, in_turns


async def told(api: Api, run_id: str, *, count: int, **headers: str) -> list[dict[str, Any]]:
    """Wait until the run has so many opinions, and return them."""

    async def listed() -> list[list[dict[str, Any]]]:
        response = await api.http.get(f"/v1/runs/{run_id}/feedback", headers=headers)
        items = response.json()["items"]
        return [items] if len(items) == count else []

    found: list[list[dict[str, Any]]] = await eventually(listed, what=f"{count} opinions")
    return found[0]


async def give(api: Api, run_id: str, **opinion: Any) -> dict[str, Any]:
    """Give feedback, which must be taken."""
    response = await api.http.post(f"/v1/runs/{run_id}/feedback", json=opinion)
    assert response.status_code == 200, response.text
    given: dict[str, Any] = response.json()
    return given


async def test_the_last_word_of_a_person_counts(api: Api) -> None:
    """Each person has one opinion of a run, also when the run is over, and it is in the run itself."""
    async with api.worker(in_turns(answer("Done."))):
        run_id = await api.start(user="ann")
        await api.ended(run_id)
    await give(api, run_id, score=0.25, by="ann")
    await give(api, run_id, thumbs="up", by="bob")
    await give(api, run_id, score=0.75, comment="better than I thought", by="ann")

    async def settled() -> list[dict[str, Any]]:
        items = (await api.get(f"/v1/runs/{run_id}"))["feedback"]
        return items if [item["score"] for item in items] == [0.75, 1.0] else []

    first, second = await eventually(settled, what="both opinions in the run")

    assert (first["by"], first["comment"], first["agent"], first["version"]) == (
        "ann", "better than I thought", "tester", "1",
    )  # fmt: skip
    assert second["by"] == "bob"


async def test_a_word_can_be_taken_back(api: Api) -> None:
    """Then it is not listed any more, and there is nothing more to take back."""
    run_id = await api.start()
    await give(api, run_id, thumbs="down", by="ann")
    await told(api, run_id, count=1)

    first = await api.http.delete(f"/v1/runs/{run_id}/feedback", params={"by": "ann"})
    again = await api.http.delete(f"/v1/runs/{run_id}/feedback", params={"by": "ann"})

    assert (first.status_code, again.status_code) == (204, 404)
    assert again.json()["type"] == "urn:perdure:problem:feedback-not-found"
    await told(api, run_id, count=0)


@pytest.mark.parametrize(
    ("opinion", "why"),
    [
        ({"by": "ann"}, "nothing in it"),
        ({"score": 1.1, "by": "ann"}, "less than or equal to 1"),
        ({"score": 1, "thumbs": "up", "by": "ann"}, "send one of them"),
        ({"score": 1}, "by is missing"),
        ({"score": 1, "by": "scorer:facts"}, "those of scorers"),
    ],
)
async def test_what_is_no_opinion_is_refused(api: Api, opinion: dict[str, Any], why: str) -> None:
    """And the answer says what would be one."""
    run_id = await api.start()

    response = await api.http.post(f"/v1/runs/{run_id}/feedback", json=opinion)

    assert (response.status_code, why in response.json()["detail"]) == (422, True), response.text


async def test_feedback_is_in_the_callers_name_and_organisation(keyed: Api) -> None:
    """Nobody speaks for somebody else, and a run of another organisation is not there."""
    ann, eve = bearer(await keyed.key("acme")), bearer(await keyed.key("evil", name="eve"))
    started = await keyed.http.post("/v1/runs", json={"agent": "tester", "input": "go"}, headers=ann)
    path = f"/v1/runs/{started.json()['run_id']}/feedback"

    given = await keyed.http.post(path, json={"score": 1}, headers=ann)
    forged = await keyed.http.post(path, json={"score": 0, "by": "bob"}, headers=ann)
    foreign = [
        await keyed.http.post(path, json={"score": 0}, headers=eve),
        await keyed.http.get(path, headers=eve),
        await keyed.http.delete(path, headers=eve),
    ]

    assert (given.status_code, given.json()["by"], given.json()["org"]) == (200, "ann", "acme")
    assert forged.status_code == 422
    assert [answer.status_code for answer in foreign] == [404, 404, 404]


async def test_a_secret_in_a_comment_is_masked(api: Api) -> None:
    """What people paste is shown to others."""
    run_id = await api.start()

    given = await give(api, run_id, thumbs="down", comment="it used AKIAIOSFODNN7EXAMPLE", by="ann")
    [listed] = await told(api, run_id, count=1)

    assert "AKIA" not in given["comment"] + listed["comment"]
