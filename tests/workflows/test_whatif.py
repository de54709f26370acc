"""What-if: a recorded run once more, offline, with another model or prompt; nothing but the model is asked."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client, WorkflowHistory

from perdure import App
from perdure.activities import Finish
from perdure.errors import HistoryFileError, InvalidInputError
from perdure.events import MessageReceived
from perdure.history import export, fetch_executions, load, project
from perdure.messages import JsonObject, Message, UserMessage
from perdure.settings import Price
from perdure.testing import Call, Turn
from perdure_workers.whatif import WhatIf, what_if
from perdure_workers.whatif.python_source import CallTo, source
from perdure_workers.whatif.saved_test import SavedTest, check_place
from tests.harness import InProcessModel, agent, answer, in_turns, pending, serving, start, used, wish

HISTORIES = Path(__file__).parents[1] / "replay" / "histories"
REFUND = Call("refund_order", {"order_id": "1042", "amount": "59.90"})
TOO_MUCH = Call("refund_order", {"order_id": "1042", "amount": "1000"})
FIND = Call("find_order", {"order_id": "1042"})


async def replayed(name: str, *replies: Turn, **options: Any) -> WhatIf:
    """Run a stored run again with these replies of a model."""
    return await what_if(HISTORIES / f"{name}.json", model="openai:gpt-5", replies=replies, **options)


async def test_the_same_replies_lead_to_the_same_run() -> None:
    """Results, approvals, rejections and a lost call that a human settled come out of the recording."""
    result = await replayed(
        "everything",
        Turn("Let me look.", calls=[FIND, Call("read_policy", {"page": 1}), Call("guess")]),
        Turn(calls=[REFUND, TOO_MUCH]),
        Turn("Your 59.90 are on their way."),
    )

    comparison = result.comparison
    assert (result.status, comparison.parted, comparison.same_answer) == ("completed", None, True)
    assert comparison.unknown == ()
    results = [[call.result for call in turn.calls] for turn in comparison.what_if.turns]
    assert results == [[call.result for call in turn.calls] for turn in comparison.recorded.turns]


async def test_nothing_but_the_model_is_reached() -> None:
    """No tool, webhook or ledger: the run's history holds model calls and answers of the recording, and no more."""
    result = await replayed("notified", Turn(calls=[Call("pay", {"card": "9999", "amount": "5"})]), Turn("Paid 5."))

    kinds = {event.WhichOneof("attributes") for history in result.offline.histories for event in history.events}
    assert result.status == "completed"
    assert [kind for kind in kinds if "child" in str(kind) or "external" in str(kind)] == []


async def test_it_says_where_the_runs_part() -> None:
    """The first turn in which the model makes other calls, and what each of the two does there."""
    result = await replayed("everything", Turn(calls=[FIND]), Turn(calls=[REFUND]), Turn("Done."))

    assert result.comparison.parted
    assert result.comparison.parted.turn == 1
    assert result.comparison.parted.why.endswith("the what-if calls find_order")
    assert not result.comparison.same_answer


async def test_a_call_with_other_arguments_stops_it() -> None:
    """Nobody knows what the tool would have said: the run ends there, and says so and what is known."""
    result = await replayed("everything", Turn(calls=[Call("find_order", {"order_id": "7"})]), Turn("Done."))

    [unknown] = result.comparison.unknown
    assert result.status == "stopped"
    assert (unknown.step, unknown.tool, unknown.arguments) == (2, "find_order", {"order_id": "7"})
    assert unknown.why == "the recorded run called find_order with other arguments only"
    assert unknown.recorded == ({"order_id": "1042"},)
    assert len(result.comparison.what_if.turns) == 1


async def test_it_can_go_on_with_an_error() -> None:
    """The model hears that the result is not available, and the call is listed all the same."""
    result = await replayed(
        "everything", Turn(calls=[Call("find_order", {"order_id": "7"})]), Turn("Sorry."), on_unknown="error"
    )

    [call] = result.comparison.what_if.turns[0].calls
    assert result.answer == "Sorry."
    assert call.status == "error"
    assert str(call.result).startswith("The result of this call is not available: the recorded run called find_order")
    assert len(result.comparison.unknown) == 1


async def test_a_question_that_nobody_was_asked_is_not_answered() -> None:
    """A human's word on other arguments is no word on these."""
    other = Call("refund_order", {"order_id": "1042", "amount": "60"})

    stopped = await replayed("everything", Turn(calls=[other]), Turn("Done."))
    going_on = await replayed("everything", Turn(calls=[other]), Turn("Done."), on_unknown="error")

    assert stopped.status == "stopped"
    assert stopped.comparison.unknown[0].why == "nobody decided on such a call of refund_order in the recorded run"
    assert going_on.comparison.what_if.turns[0].calls[0].status == "rejected"


async def test_a_read_may_be_repeated_and_an_effect_may_not() -> None:
    """A question asked again gets the last answer; a `once` call made more often than recorded has none."""
    read = await replayed("everything", Turn(calls=[FIND]), Turn(calls=[FIND]), Turn("Done."))
    paid = await replayed("everything", Turn(calls=[REFUND]), Turn(calls=[REFUND]), Turn("Done."))

    assert read.status == "completed"
    assert paid.status == "stopped"
    assert paid.comparison.unknown[0].why == (
        "the recorded run made this call of refund_order once, and it is no call to be repeated"
    )


async def test_arguments_are_the_same_if_they_mean_the_same(client: Client) -> None:
    """An argument left out is its default, and 7 is 7.0."""
    app = App()

    @app.tool()
    def look_up(number: float, verbose: bool = False) -> str:
        """Look up."""
        return f"{number}, {verbose}"

    app.add(agent(tools=("look_up",)))
    histories = await recorded(client, app, wish(("look_up", {"number": 7})), answer("Done."))

    asked: Sequence[JsonObject] = [{"number": 7.0}, {"number": 7, "verbose": False}]
    results = [
        await what_if(histories, replies=[Turn(calls=[Call("look_up", arguments)]), Turn("Done.")])
        for arguments in asked
    ]

    assert [result.status for result in results] == ["completed"] * 2


async def test_messages_are_said_where_they_were_said() -> None:
    """What people said joins the what-if before the model call that it joined in the recorded run."""
    result = await replayed("steered", Turn(calls=[TOO_MUCH]), Turn(calls=[FIND]), Turn("Then a voucher."))

    events = list(project(result.offline.histories))
    assert result.comparison.parted is None
    assert [event.text for event in events if isinstance(event, MessageReceived)] == ["Offer a voucher instead."]
    assert result.comparison.unsaid == 0


async def test_edited_arguments_are_edited_again(client: Client) -> None:
    """Who changed a call's arguments does so once more, and the tool's recorded result belongs to the changed call."""
    app, paid = App(), []

    @app.tool(effect="once")
    def pay(amount: Decimal) -> str:
        """Pay."""
        paid.append(amount)
        return f"paid {amount}"

    app.add(agent(tools=("pay",)))
    model = InProcessModel(in_turns(wish(("pay", {"amount": "50"})), answer("Paid.")))
    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        [question] = await pending(handle)
        decision = {"approval_id": question.approval_id, "decided_by": "ann", "arguments": {"amount": "5"}}
        await handle.signal("approve", decision)
        await handle.result()
    histories = await fetch_executions(client, handle.id)

    result = await what_if(
        histories, prompt="Be kind.", replies=[Turn(calls=[Call("pay", {"amount": "50"})]), Turn("Paid.")]
    )

    assert result.comparison.what_if.turns[0].calls[0].result == "paid 5"
    assert result.comparison.what_if.instructions == "Be kind."
    assert paid == [Decimal(5)]


async def test_secret_arguments_count_and_are_not_shown() -> None:
    """A call with another secret is another call; what is shown has a mask in both."""
    same = await replayed("notified", Turn(calls=[Call("pay", {"card": "9999", "amount": "5"})]), Turn("Paid 5."))
    other = await replayed("notified", Turn(calls=[Call("pay", {"card": "1111", "amount": "5"})]), Turn("Paid 5."))

    assert same.comparison.parted is None
    assert other.status == "stopped"
    assert "9999" not in same.comparison.model_dump_json() + other.comparison.model_dump_json()
    assert "1111" not in other.comparison.model_dump_json()


async def test_a_limit_of_the_cost_is_kept() -> None:
    """A model call that could cost more than is left is not made; without a price there is no limit to keep."""
    model = InProcessModel(in_turns(used(answer("Done."), input_tokens=1000, output_tokens=1000)))
    price = {"in-process:x": Price(input=Decimal(1), output=Decimal(1))}
    file, providers = HISTORIES / "everything.json", {"in-process": model}

    result = await what_if(file, model="in-process:x", providers=providers, prices=price, max_cost=Decimal("0.001"))
    with pytest.raises(InvalidInputError, match="nobody has a price for 'in-process:x'"):
        await what_if(file, model="in-process:x", providers=providers, max_cost=Decimal(1))

    assert result.status == "out_of_budget"
    assert model.seen == []
    paid = await what_if(file, model="in-process:x", providers=providers, prices=price, max_cost=Decimal(1))
    assert (paid.status, paid.comparison.what_if.totals.cost_usd) == ("completed", Decimal("0.002"))


async def test_the_model_sees_the_new_prompt_and_the_same_question() -> None:
    """Only what was to be otherwise is otherwise."""
    seen: list[list[Message]] = []

    def script(messages: list[Message]) -> Any:
        seen.append(messages)
        return answer("Done.")

    result = await what_if(
        HISTORIES / "everything.json",
        model="in-process:x",
        prompt="Be brief.",
        providers={"in-process": InProcessModel(script)},
    )

    assert seen == [[UserMessage(text="Order 1042 arrived broken, I want my money back.")]]
    assert result.offline.recording.arguments.spec.instructions == "Be brief."
    assert result.recorded.arguments.spec.tools != ()


@pytest.mark.parametrize("name", ["continued", "governed", "rated", "running", "cancelled", "failed", "outage"])
async def test_every_kind_of_run_can_be_asked_what_if(name: str) -> None:
    """Long ones, governed ones, such with rates of their own, and those that never came to an end."""
    result = await replayed(name, Turn("Done."))

    assert result.answer == "Done."


async def test_a_run_whose_beginning_is_gone_cannot_be_asked() -> None:
    """A what-if begins where the run began."""
    histories = load((HISTORIES / "continued.json").read_text())

    with pytest.raises(HistoryFileError, match="first execution is deleted"):
        await what_if(histories[1:], replies=[Turn("Done.")])


@pytest.mark.parametrize("on_unknown", ["stop", "error"])
async def test_a_saved_test_passes(on_unknown: Any, tmp_path: Path) -> None:
    """It is a readable file that pytest runs as it stands, with the history and the prompt beside it."""
    replies = [
        Turn("I look.", calls=[FIND, Call("find_order", {"order_id": "7"})]),
        Turn("Cut", finish=Finish.LENGTH),
        Turn('It is "done":\n' + "your money is on its way, " * 20 + "\\ done"),
    ]
    file, histories = tmp_path / "tests" / "test_refund.py", load((HISTORIES / "everything.json").read_text())
    result = await what_if(histories, model="openai:gpt-5", prompt="Be brief.", replies=replies, on_unknown=on_unknown)

    saved = SavedTest(file, model="openai:gpt-5", prompt="Be brief.", on_unknown=on_unknown)
    written = [path.name for path in saved.write(result, history=export(histories))]
    code, output = await child(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file))
    linted, remarks = await child(
        *(
            sys.executable,
            "-m",
            "ruff",
            "check",
            "--isolated",
            "--line-length",
            "120",
            "--select",
            "E,F,UP",
            str(file),
        )
    )

    assert written == ["test_refund.history.json", "test_refund.py", "test_refund.prompt.md"]
    assert (code, linted) == (0, 0), output + remarks
    assert "1 passed" in output


async def test_a_saved_test_fails_when_the_agent_does_otherwise(tmp_path: Path) -> None:
    """It would not be a test otherwise."""
    histories = load((HISTORIES / "everything.json").read_text())
    result = await what_if(histories, replies=[Turn(calls=[FIND]), Turn("Done.")])
    file = tmp_path / "test_refund.py"
    list(SavedTest(file, model=None, prompt=None, on_unknown="stop").write(result, history=export(histories)))
    file.write_text(file.read_text().replace('Turn("Done.")', 'Turn("Something else.")'))

    code, output = await child(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file))

    assert code == 1
    assert "Something else." in output


def test_a_test_is_written_where_pytest_finds_it(tmp_path: Path) -> None:
    """A wrong name, or a file that is there, is refused before the model is asked."""
    (tmp_path / "test_there.py").touch()

    for name, why in {"refund.py": "pytest finds a test", "test_there.py": "already"}.items():
        with pytest.raises(InvalidInputError, match=why):
            check_place(tmp_path / name)
    check_place(tmp_path / "test_new.py")


@pytest.mark.parametrize(
    "value",
    [
        "a 'quoted' \"text\" \\ with\ttabs\r\n and \u202e marks",
        "long " * 100,
        "x" * 300,
        {"nested": {"list": [1, 2.5, None, True, "long " * 40]}, "another": "long " * 20},
        [("find", {"a": "b" * 70}), ("find", {"a": "b" * 70})],
    ],
)
def test_values_are_written_as_python_reads_them(value: object) -> None:
    """Whatever a model said comes back from the source as it was."""
    written = source(value, margin=4)

    assert eval(written) == value
    assert all(len(line) <= 110 for line in written.splitlines())
    assert "\u202e" not in written


def test_a_call_is_written_with_its_names() -> None:
    """As people write it."""
    assert source(CallTo("Turn", ["Hi."], {"calls": []})) == 'Turn("Hi.", calls=[])'


async def recorded(client: Client, app: App, *replies: Any) -> list[WorkflowHistory]:
    """Return the histories of a run of the app."""
    async with serving(client, app, InProcessModel(in_turns(*replies))) as settings:
        handle = await start(client, app, settings)
        await handle.result()
    return await fetch_executions(client, handle.id)


async def child(*command: str) -> tuple[int, str]:
    """Run a program to its end, and return its exit code and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def test_the_pages_code_works() -> None:
    """The example of docs/whatif.md is a test that passes."""
    page = (Path(__file__).parents[2] / "docs" / "whatif.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "page"}

    for block in re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL):
        exec(compile(block, "whatif.md", "exec", dont_inherit=True), names)

    await names["test_the_customer_gets_an_answer"](HISTORIES / "everything.json")
