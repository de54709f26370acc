"""What can go wrong between a client and a model's vendor, as a script asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from enum import StrEnum
from typing import Literal

NO_TIME = timedelta(0)


class FaultKind(StrEnum):
    """How an attempt goes wrong."""

    STATUS = "status"
    """An HTTP error instead of an answer."""
    SLOW = "slow"
    """The whole answer, late."""
    DISCONNECT = "disconnect"
    """The connection breaks in the middle of the answer."""
    MALFORMED = "malformed"
    """A piece of the answer is no JSON."""
    TRUNCATED = "truncated"
    """The answer ends cleanly, but without what marks it as finished."""
    ERROR_EVENT = "error_event"
    """The vendor reports an error after the answer has begun."""
    HANG = "hang"
    """Nothing comes, ever."""


@dataclass(frozen=True)
class Fault:
    """One attempt's misfortune. Make one with the class methods; list them in `Turn.faults`, one for each attempt."""

    kind: FaultKind
    status: int = 200
    message: str = ""
    code: str | None = None
    """OpenAI's machine-readable name of the error; it has no place in Anthropic's format."""
    retry_after: timedelta | None = None
    retry_after_form: Literal["seconds", "milliseconds", "date"] = "seconds"
    first_byte: timedelta = NO_TIME
    between: timedelta = NO_TIME
    after: int | None = None
    """Events sent before it happens; None: half of them."""

    @classmethod
    def error(cls, status: int, message: str = "scripted error", *, code: str | None = None) -> Fault:
        """Answer with an HTTP error in the vendor's own form."""
        return cls(kind=FaultKind.STATUS, status=status, message=message, code=code)

    @classmethod
    def rate_limited(
        cls, retry_after: timedelta | None = None, *, form: Literal["seconds", "milliseconds", "date"] = "seconds"
    ) -> Fault:
        """Answer 429, and say when to come back in one of the three forms that vendors use."""
        return cls(
            kind=FaultKind.STATUS,
            status=429,
            message="This request would exceed your rate limit.",
            code="rate_limit_exceeded",
            retry_after=retry_after,
            retry_after_form=form,
        )

    @classmethod
    def overloaded(cls, *, status: int = 529) -> Fault:
        """Answer that the vendor has too much to do; OpenAI's own status for it is 503."""
        return cls.error(status, "Overloaded")

    @classmethod
    def server_error(cls) -> Fault:
        """Answer 500."""
        return cls.error(500, "Internal server error")

    @classmethod
    def bad_request(cls, message: str = "scripted bad request", *, code: str | None = None) -> Fault:
        """Answer 400, which is final."""
        return cls.error(400, message, code=code)

    @classmethod
    def slow(cls, *, first_byte: timedelta = NO_TIME, between: timedelta = NO_TIME) -> Fault:
        """Answer in full, but wait before the first byte, and between the events of a stream."""
        return cls(kind=FaultKind.SLOW, first_byte=first_byte, between=between)

    @classmethod
    def disconnect_midstream(cls, *, after: int | None = None) -> Fault:
        """Break the connection after that many events (default: half of them)."""
        return cls(kind=FaultKind.DISCONNECT, after=after)

    @classmethod
    def malformed(cls, *, after: int | None = None) -> Fault:
        """Send an event whose data is no JSON after that many good ones (default: half of them)."""
        return cls(kind=FaultKind.MALFORMED, after=after)

    @classmethod
    def truncated(cls) -> Fault:
        """End the stream cleanly before its finish marker; a plain answer is cut in half."""
        return cls(kind=FaultKind.TRUNCATED)

    @classmethod
    def error_midstream(cls, message: str = "Overloaded", *, after: int | None = None) -> Fault:
        """Report an error inside the stream after that many events (default: half); a plain answer is a 500."""
        return cls(kind=FaultKind.ERROR_EVENT, status=500, message=message, after=after)

    @classmethod
    def hang(cls) -> Fault:
        """Never answer; the connection stays open until the client gives up."""
        return cls(kind=FaultKind.HANG)

    def headers(self) -> list[tuple[str, str]]:
        """Return the response headers that say when to come back."""
        if self.retry_after is None:
            return []
        match self.retry_after_form:
            case "seconds":
                return [("retry-after", f"{self.retry_after.total_seconds():g}")]
            case "milliseconds":
                return [("retry-after-ms", f"{self.retry_after / timedelta(milliseconds=1):g}")]
            case "date":
                return [("retry-after", format_datetime(datetime.now(UTC) + self.retry_after, usegmt=True))]

    def position(self, events: int) -> int:
        """Return how many of that many events are sent before the fault; at least one is left unsent."""
        wanted = events // 2 if self.after is None else self.after
        return max(0, min(wanted, events - 1))
