"""The agents of `stream`: one whose model speaks for as long as it is told, and one that asks for an approval.

Each word that the model says is the time at which it was said, so whoever reads it knows how long it was on its way.
`python -m benchmarks.speaker` serves the same words without a runtime: the least that a stream can cost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import timedelta

import uvicorn
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.journal import Journal, Kind
from perdure import Agent, App, ToolContext
from perdure.activities import Finish
from perdure.agent import AgentSpec
from perdure.contracts import Usage
from perdure.messages import AssistantMessage, Message, TextPart, ToolCallPart, UserMessage
from perdure_activities.providers.provider import PromptCache, ProviderReply

SPEAKING = "speaking"
"""Prefix of the provider."""
SPEAKER, ASKER = "speaker", "asker"
TOOL = "sign"
TOKENS_A_SECOND = 50
_LETTERS = str.maketrans("0123456789", "abcdefghij")
_DIGITS = str.maketrans("abcdefghij", "0123456789")


def word(at: float) -> str:
    """Return a word, with the space behind it, that tells a time in seconds, to the microsecond."""
    return str(round(at * 1e6)).translate(_LETTERS) + " "


def told(text: str) -> float:
    """Return the time that a word without its space tells.

    Raises:
        ValueError: It is no such word.
    """
    return int(text.translate(_DIGITS)) / 1e6


async def words(seconds: float) -> AsyncGenerator[str]:
    """Iterate over words, so many a second, for so long."""
    clock = asyncio.get_running_loop()
    began = clock.time()
    for number in range(round(seconds * TOKENS_A_SECOND)):
        await asyncio.sleep(max(0, began + number / TOKENS_A_SECOND - clock.time()))
        yield word(time.time())


class SpeakingModel:
    """A provider that says words for as many seconds as its user wants, and calls the agent's tool once."""

    wire = SPEAKING
    price_id = "none"
    price_flavor = "default"

    def encode(self, message: Message) -> bytes:
        """Write the message in our own form."""
        return message.model_dump_json().encode()

    async def call(
        self,
        spec: AgentSpec,
        messages: bytes,
        *,
        timeout: timedelta,
        on_text: Callable[[str], None],
        cache: PromptCache | None = None,
    ) -> ProviderReply:
        """Speak, and call the tool if the agent has one that was not called yet."""
        del timeout, cache
        text = ""
        async with aclosing(words(_wanted_seconds(messages))) as spoken:
            async for each in spoken:
                text += each
                on_text(each)
        asks = bool(spec.tools) and b'"call_id"' not in messages
        parts = (ToolCallPart(id="call_0", name=TOOL, arguments={}),) if asks else (TextPart(text=text or "Done."),)
        return ProviderReply(
            message=AssistantMessage(parts=parts),
            finish=Finish.TOOL_CALLS if asks else Finish.STOP,
            model=spec.model_name,
            usage=Usage(),
            priced_usage={},
        )

    async def close(self) -> None:
        """Nothing to release."""


def speaker_app(sign: Callable[..., object]) -> App:
    """Return the app of both agents, of which one has a tool that wants an approval."""
    app = App()
    app.tool(name=TOOL, effect="once", approval="ask")(sign)
    app.add(Agent(name=SPEAKER, model=f"{SPEAKING}:words", instructions="Speak for so many seconds."))
    app.add(Agent(name=ASKER, model=f"{SPEAKING}:words", instructions="Have it signed.", tools=(TOOL,)))
    return app


def sign_tool(journal: Journal | None) -> Callable[..., object]:
    """Return the tool; with a journal it writes down when it is called."""

    async def sign(ctx: ToolContext) -> str:
        """Sign it."""
        if journal is None:
            return "signed"
        with journal.call(Kind.TOOL, run=ctx.run_id, key=ctx.call_id):
            return "signed"

    return sign


APP = speaker_app(sign_tool(None))
"""For `perdure api --app benchmarks.speaker:APP`."""


def _wanted_seconds(messages: bytes) -> float:
    user = UserMessage.model_validate(json.loads(b"[" + messages + b"]")[0])
    return float(user.text)


async def _serve(request: Request) -> EventSourceResponse:
    async def messages() -> AsyncGenerator[ServerSentEvent]:
        async with aclosing(words(float(request.query_params["seconds"]))) as spoken:
            async for each in spoken:
                yield ServerSentEvent(event="delta", data=f'{{"text":"{each}"}}')

    return EventSourceResponse(messages())


async def _healthy(_: Request) -> Response:
    return Response()


def main() -> None:
    """Serve the words on a port until killed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speaker", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    app = Starlette(routes=[Route("/words", _serve), Route("/healthz", _healthy)])
    uvicorn.run(app, port=parser.parse_args().port, log_level="error", access_log=False)


if __name__ == "__main__":
    main()
