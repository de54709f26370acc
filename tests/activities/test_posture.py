"""What becomes of each failure of a model call, through the real SDKs and a real connection."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.exceptions import ApplicationError

from perdure.messages import UserMessage
from perdure_activities.providers.anthropic_messages import AnthropicMessages
from perdure_activities.providers.openai_chat import OpenAIChat
from perdure_activities.providers.openai_client import OpenAIClient
from perdure_activities.providers.openai_responses import OpenAIResponses
from perdure_activities.providers.posture import failure, retry_after
from perdure_activities.providers.provider import Provider
from perdure_activities.providers.registry import default_providers, preload, provider_for
from tests.activities.wire_server import Answer, WireServer, ignore, spec_of, sse

KEY = "sk-very-secret-key"
TASK = "a task that must not be repeated in errors"
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
PROVIDERS: dict[str, Callable[[], Provider]] = {
    "anthropic:claude-sonnet-5-5": AnthropicMessages,
    "openai:gpt-5": OpenAIResponses,
    "openai-chat:gpt-5": OpenAIChat,
}


@pytest.fixture(params=PROVIDERS)
def model(request: pytest.FixtureRequest) -> str:
    """A model of each provider."""
    return str(request.param)


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every provider the same key."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


async def failed_call(
    model: str, url: str, monkeypatch: pytest.MonkeyPatch, *, timeout: timedelta = timedelta(seconds=20)
) -> ApplicationError:
    """Make one call that must fail, and return its error."""
    monkeypatch.setenv("ANTHROPIC_BASE_URL", url)
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    provider = PROVIDERS[model]()
    try:
        with pytest.raises(ApplicationError) as caught:
            await provider.call(
                spec_of(model), provider.encode(UserMessage(text=TASK)), timeout=timeout, on_text=ignore
            )
    finally:
        await provider.close()
    return caught.value


def refusal(message: str, **names: Any) -> bytes:
    """Return an error body that both vendors' SDKs read."""
    return json.dumps({"type": "error", "error": {"message": message, **names}}).encode()


def refused(status: int, body: bytes, **headers: str) -> Answer:
    """Return an answer with an error status."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(body, status, {"content-type": "application/json", **named})


@pytest.mark.parametrize(
    ("status", "names", "type_", "final"),
    [
        (400, {"type": "invalid_request_error"}, "model_request_rejected", True),
        (401, {"type": "authentication_error"}, "model_authentication", True),
        (402, {"type": "billing_error"}, "model_quota_exhausted", True),
        (403, {"type": "permission_error"}, "model_authentication", True),
        (404, {"type": "not_found_error"}, "model_not_found", True),
        (405, {}, "model_request_rejected", True),
        (408, {}, "model_timeout", False),
        (409, {}, "model_server_error", False),
        (413, {"type": "request_too_large"}, "model_request_rejected", True),
        (422, {}, "model_request_rejected", True),
        (429, {"type": "rate_limit_error"}, "model_rate_limited", False),
        (429, {"type": "insufficient_quota", "code": "insufficient_quota"}, "model_quota_exhausted", True),
        (429, {"code": "billing_hard_limit_reached"}, "model_quota_exhausted", True),
        (500, {"type": "api_error"}, "model_server_error", False),
        (502, {}, "model_server_error", False),
        (503, {}, "model_overloaded", False),
        (504, {}, "model_server_error", False),
        (529, {"type": "overloaded_error"}, "model_overloaded", False),
    ],
)
async def test_every_status_has_a_posture(
    model: str, monkeypatch: pytest.MonkeyPatch, status: int, names: dict[str, str], type_: str, final: bool
) -> None:
    """A status is retried or final as the table says, and the provider's own words are in the error."""
    async with WireServer(refused(status, refusal("the vendor's words", **names))) as server:
        error = await failed_call(model, server.url, monkeypatch)

    assert (error.type, error.non_retryable) == (type_, final)
    assert "the vendor's words" in error.message
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "said",
    [
        {"message": "prompt is too long: 210000 tokens > 200000 maximum", "type": "invalid_request_error"},
        {"message": "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000"},
        {"message": "Your input is too long.", "code": "context_length_exceeded"},
        {"message": "This model's maximum context length is 8192 tokens."},
        {"message": "the request exceeds the available context size", "type": "exceed_context_size_error"},
    ],
)
async def test_a_conversation_that_is_too_long_has_its_own_name(
    model: str, monkeypatch: pytest.MonkeyPatch, said: dict[str, str]
) -> None:
    """Every vendor's way of saying that the context window is full ends as `context_window`, finally."""
    body = json.dumps({"error": said}).encode()
    async with WireServer(refused(400, body)) as server:
        error = await failed_call(model, server.url, monkeypatch)

    assert (error.type, error.non_retryable) == ("context_window", True)


@pytest.mark.parametrize(
    ("headers", "delay"),
    [
        ({"retry_after": "7"}, timedelta(seconds=7)),
        ({"retry_after_ms": "1500", "retry_after": "7"}, timedelta(seconds=1.5)),
        ({"retry_after": "86400"}, timedelta(minutes=10)),
        ({"retry_after": "-1"}, None),
        ({"retry_after": "soon"}, None),
        ({}, None),
    ],
)
async def test_the_provider_says_when_to_come_back(
    model: str, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], delay: timedelta | None
) -> None:
    """Temporal waits as long as retry-after says, within reason, and backs off by itself without one."""
    async with WireServer(refused(429, refusal("slow down"), **headers)) as server:
        error = await failed_call(model, server.url, monkeypatch)

    assert (error.next_retry_delay, error.non_retryable) == (delay, False)


async def test_a_final_error_names_no_delay(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry-after on an error that is not retried plays no part."""
    async with WireServer(refused(400, refusal("no"), retry_after="7")) as server:
        error = await failed_call(model, server.url, monkeypatch)

    assert error.next_retry_delay is None


@pytest.mark.parametrize(
    ("status", "advice", "final"), [(500, "false", True), (429, "false", True), (400, "true", True)]
)
async def test_advice_not_to_retry_is_followed(
    model: str, monkeypatch: pytest.MonkeyPatch, status: int, advice: str, final: bool
) -> None:
    """`x-should-retry: false` makes an error final; `true` makes no final error a retried one."""
    async with WireServer(refused(status, refusal("no"), x_should_retry=advice)) as server:
        error = await failed_call(model, server.url, monkeypatch)

    assert error.non_retryable is final


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"detail": "Not Found here"}', "Not Found here"),
        (b'{"error": "model \'x\' not found"}', "model 'x' not found"),
        (b'{"message": "plain"}', "plain"),
        (b"<html>gateway</html>", "gateway"),
        (b"[1, 2]", "[1, 2]"),
        (b"", ""),
    ],
)
async def test_compatible_servers_words_are_found(
    model: str, monkeypatch: pytest.MonkeyPatch, body: bytes, words: str
) -> None:
    """Wherever a server or gateway puts its message, the run's error has it."""
    async with WireServer(refused(502, body)) as server:
        error = await failed_call(model, server.url, monkeypatch)

    assert error.type == "model_server_error"
    assert words in error.message


async def test_an_error_gives_no_secret_away(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the key, even when a server echoes it, nor the request's body, nor a long page gets into an error."""
    echo = refusal(f"no such key {KEY}; " + "x" * 100_000)
    async with WireServer(refused(401, echo)) as server:
        error = await failed_call(model, server.url, monkeypatch)

    assert "no such key [redacted]" in error.message
    assert KEY not in repr(error)
    assert TASK not in error.message
    assert len(error.message) < 3_000
    assert error.__cause__ is None
    assert error.__suppress_context__


async def test_the_request_id_is_kept(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider's request id is in the error, for whoever asks its support."""
    name = "request_id" if model.startswith("anthropic") else "x_request_id"
    async with WireServer(refused(500, refusal("oops"), **{name: "req_42"})) as server:
        error = await failed_call(model, server.url, monkeypatch)

    assert "(request req_42)" in error.message


async def test_nobody_listening_is_a_connection_error(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused connection is retried."""
    async with WireServer() as server:
        url = server.url
    error = await failed_call(model, url, monkeypatch)

    assert (error.type, error.non_retryable) == ("model_connection", False)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1:1", "127.0.0.1:1/v1"])
async def test_an_address_no_request_can_go_to_is_final(model: str, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """A base URL of another protocol, or of none, is a mistake in the configuration."""
    error = await failed_call(model, url, monkeypatch)

    assert (error.type, error.non_retryable) == ("model_configuration", True)


async def test_a_key_that_no_header_can_carry_is_final(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key with a line break is a mistake in the configuration, and is not shown."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY + "\nx")
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "\nx")
    async with WireServer(Answer()) as server:
        error = await failed_call(model, server.url, monkeypatch)

    assert (error.type, error.non_retryable) == ("model_configuration", True)
    assert KEY not in repr(error)


async def test_a_connection_lost_in_the_stream_is_retried(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disconnect in mid-stream is a lost connection, whether or not the SDK translates it."""
    async with WireServer(Answer(b": hello\n\n", then="abort")) as server:
        error = await failed_call(model, server.url, monkeypatch)

    assert (error.type, error.non_retryable) == ("model_connection", False)


@pytest.mark.parametrize(
    "body",
    [b'event: x\ndata: {"type": \n\n', b"event: x\ndata: \xff\xfe\n\n", b"event: x\ndata: [1, 2]\n\n", b"", b"<html>"],
    ids=["cut JSON", "no UTF-8", "no object", "nothing", "a page"],
)
async def test_an_unreadable_stream_is_a_broken_reply(model: str, monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    """What cannot be read, or just ends, is asked for again."""
    async with WireServer(Answer(body)) as server:
        error = await failed_call(model, server.url, monkeypatch)

    assert (error.type, error.non_retryable) == ("model_reply_broken", False)


@pytest.mark.parametrize("answer", [Answer(b": hello\n\n", then="hang"), Answer(then="hang")])
async def test_a_silent_provider_times_out(model: str, monkeypatch: pytest.MonkeyPatch, answer: Answer) -> None:
    """The whole call ends at its timeout, retryable, and the connection is given up."""
    async with WireServer(answer) as server:
        begun = time.monotonic()
        error = await failed_call(model, server.url, monkeypatch, timeout=timedelta(seconds=0.3))
        await asyncio.wait_for(server.left.wait(), 5)

    assert (error.type, error.non_retryable) == ("model_timeout", False)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("names", "type_", "final"),
    [
        ({"type": "overloaded_error"}, "model_overloaded", False),
        ({"type": "api_error"}, "model_server_error", False),
        ({"type": "server_error", "code": None}, "model_server_error", False),
        ({"type": "rate_limit_error"}, "model_rate_limited", False),
        ({"type": "invalid_request_error"}, "model_request_rejected", True),
        ({"type": "billing_error"}, "model_quota_exhausted", True),
        ({"code": 503}, "model_overloaded", False),
        ({}, "model_server_error", False),
    ],
)
async def test_an_error_event_is_what_its_name_says(
    model: str, monkeypatch: pytest.MonkeyPatch, names: dict[str, Any], type_: str, final: bool
) -> None:
    """An error inside a stream that began with status 200 has the posture of the status it stands for."""
    event = {"type": "error", "error": {"message": "in the middle", **names}}
    async with WireServer(Answer(sse(event, named=True))) as server:
        error = await failed_call(model, server.url, monkeypatch)

    assert (error.type, error.non_retryable) == (type_, final)
    assert "in the middle" in error.message


@pytest.mark.parametrize(
    ("value", "delay"),
    [
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), timedelta(seconds=90)),
        (format_datetime(NOW - timedelta(seconds=90), usegmt=True), None),
        ("Sat, 21 Nov 2026 12:00:30", timedelta(seconds=30)),
        ("0", None),
        ("nan", None),
        ("inf", None),
        ("1e400", None),
        ("2.5", timedelta(seconds=2.5)),
        ("99999999999999999999", timedelta(minutes=10)),
    ],
)
def test_retry_after_is_read_in_all_its_forms(value: str, delay: timedelta | None) -> None:
    """Seconds and dates count; the past, nothing and nonsense do not; nothing exceeds ten minutes."""
    assert retry_after({"retry-after": value}, now=NOW) == delay


@given(value=st.text(max_size=40), milliseconds=st.text(max_size=40))
def test_no_retry_after_does_harm(value: str, milliseconds: str) -> None:
    """Whatever the headers hold, the delay is absent, or positive and at most ten minutes."""
    delay = retry_after({"retry-after": value, "retry-after-ms": milliseconds}, now=NOW)

    assert delay is None or timedelta(0) < delay <= timedelta(minutes=10)


@pytest.mark.parametrize(
    ("error", "type_"),
    [
        (httpx2.RemoteProtocolError("peer closed connection"), "model_connection"),
        (httpx2.ReadError("reset"), "model_connection"),
        (httpx2.ReadTimeout("slow"), "model_timeout"),
        (httpx2.PoolTimeout("busy"), "model_timeout"),
        (TimeoutError(), "model_timeout"),
        (ConnectionResetError("reset"), "model_connection"),
        (httpx2.DecodingError("not gzip"), "model_reply_broken"),
        (json.JSONDecodeError("bad", "{", 1), "model_reply_broken"),
        (KeyError("surprise"), "model_reply_broken"),
    ],
)
def test_raw_exceptions_have_a_posture(error: Exception, type_: str) -> None:
    """What the SDKs let through, and what nobody expected, is retried under a stable name."""
    translated = failure(error, vendor="the vendor")

    assert (translated.type, translated.non_retryable) == (type_, False)


@pytest.mark.parametrize(
    "error",
    [
        httpx2.InvalidURL("no port"),
        httpx2.UnsupportedProtocol("ftp"),
        httpx2.LocalProtocolError("header"),
        UnicodeEncodeError("ascii", "é", 0, 1, "not in range"),
    ],
)
def test_what_cannot_be_sent_is_final(error: Exception) -> None:
    """An address or a header that HTTP does not carry stays wrong however often it is tried."""
    translated = failure(error, vendor="the vendor")

    assert (translated.type, translated.non_retryable) == ("model_configuration", True)


def test_an_error_that_is_translated_already_stays_as_it_is() -> None:
    """Translating twice changes nothing."""
    error = ApplicationError("x", type="model_authentication", non_retryable=True)

    assert failure(error, vendor="the vendor") is error


def test_an_unknown_provider_is_named_with_the_known_ones() -> None:
    """A model reference with an unknown prefix fails for good and says which prefixes there are."""
    with pytest.raises(ApplicationError, match=r"'mistral'.*anthropic, openai, openai-chat") as caught:
        provider_for("mistral", default_providers())

    assert caught.value.non_retryable


def test_each_provider_speaks_its_wire() -> None:
    """Each prefix has its provider, and preloading takes unknown prefixes in its stride."""
    preload(["anthropic", "openai", "mistral"])

    assert {prefix: provider.wire for prefix, provider in default_providers().items()} == {
        "anthropic": "anthropic",
        "openai": "openai-responses",
        "openai-chat": "openai-chat",
    }


@pytest.mark.parametrize(
    ("url", "own"),
    [
        (None, True),
        ("https://eu.api.openai.com/v1", True),
        ("https://x.openai.azure.com/openai/v1", True),
        ("http://127.0.0.1:1/v1", False),
        ("https://notopenai.com/v1", False),
    ],
)
async def test_openai_is_told_from_compatible_servers(
    monkeypatch: pytest.MonkeyPatch, url: str | None, own: bool
) -> None:
    """Only OpenAI's own hosts get what older compatible servers do not know."""
    if url:
        monkeypatch.setenv("OPENAI_BASE_URL", url)
    client = OpenAIClient()

    assert await client.speaks_to_openai() is own
    await client.close()
