"""Every error Perdure raises on purpose.

PerdureError
├── ConfigurationError          what an operator or author set up is wrong; raised at start-up
│   ├── AppLoadError            no App at the given place
│   ├── DuplicateNameError      two tools, or two agents of one version, share a name
│   ├── UnknownToolError        an agent names a tool that the app does not have
│   ├── InvalidToolError        a function cannot become a tool
│   ├── AuditNotConfiguredError there is no audit
│   ├── SettingsError           a setting's value cannot work
│   └── PolicyError             a policy, or a table of cases for one, is wrong; says in which line
├── UnknownAgentError           nobody registered an agent of that name and version
├── UnauthenticatedError        nobody knows who calls
├── PermissionDeniedError       the caller is known, and may not do this
├── RunNotFoundError            no run has that id
├── ApprovalNotFoundError       the run has no such approval
├── GrantNotFoundError          no standing grant has that id
├── ScheduleNotFoundError       there is no such schedule
├── FeedbackNotFoundError       nobody of that name has given the run feedback
├── DeliveryNotFoundError       the run has no such delivery
├── ConflictError               the run or approval is in a state that forbids the request
│   └── NotRetriableError           the run has not failed, or can go on from nowhere
├── InputTooLargeError          something is over the size Temporal can carry
├── InvalidInputError           a value that a caller gave cannot be used
│   ├── CallbackRefusedError        a callback URL leads where Perdure does not call
│   ├── IdempotencyKeyReusedError   the key belongs to another request
│   └── InputRefusedError           an agent's input guard refuses what was said; apps raise it too
├── AuditError                  the audit's store does not do what it must
│   └── ChainMovedError         another writer has appended to the chain
├── HistoryFileError            a file is no exported history
├── DecryptionError             a payload cannot be read with the keys at hand
├── RateLimitedError            a caller sent more requests than it may
├── ApiKeyNotFoundError         no API key has that id
├── ServerUnreachableError      the Temporal server does not answer
├── IssuerUnreachableError      the issuer of tokens does not give its keys
├── NoWorkerError               no worker polls the task queue
└── ProcessError                a process that a command started ended, or never got ready
ToolError                       raised by a tool, read by the model; deliberately no PerdureError
"""

from __future__ import annotations


class PerdureError(Exception):
    """Something Perdure refuses or cannot do."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class ConfigurationError(PerdureError):
    """The app or its settings are wrong."""


class AppLoadError(ConfigurationError):
    """No App could be loaded."""


class DuplicateNameError(ConfigurationError):
    """A name is registered twice."""


class UnknownToolError(ConfigurationError):
    """An agent names a tool that the app does not have."""


class InvalidToolError(ConfigurationError):
    """A function cannot be used as a tool."""


class AuditNotConfiguredError(ConfigurationError):
    """There is no audit."""


class SettingsError(ConfigurationError):
    """A setting's value cannot work."""


class PolicyError(ConfigurationError):
    """A policy, or a table of cases for one, is wrong."""

    def __init__(self, message: str, *, file: str = "", line: int | None = None) -> None:
        """Say what is wrong.

        Args:
            message: What, and what would be right.
            file: Where it was read from; empty for a policy that was not read from a file.
            line: The line that is wrong; the first is 1.
        """
        place = f"{file}:{line}: " if line else f"{file}: "
        super().__init__(f"{place}{message}" if file else message)
        self.file = file
        self.line = line


class UnknownAgentError(PerdureError):
    """No agent of that name and version is registered."""


class UnauthenticatedError(PerdureError):
    """The request does not say who calls, or cannot prove it."""

    def __init__(self, message: str | None = None, *, credential: bool = False) -> None:
        super().__init__(message)
        self.credential = credential
        """Whether there was a key or token, which did not count."""


class PermissionDeniedError(PerdureError):
    """The caller may not do this."""


class RunNotFoundError(PerdureError):
    """No run has that id."""


class ApprovalNotFoundError(PerdureError):
    """The run has no such approval."""


class GrantNotFoundError(PerdureError):
    """No standing grant has that id."""


class ScheduleNotFoundError(PerdureError):
    """There is no such schedule."""


class FeedbackNotFoundError(PerdureError):
    """Nobody of that name has given the run feedback."""


class DeliveryNotFoundError(PerdureError):
    """The run has no such delivery."""


class ConflictError(PerdureError):
    """The run or the approval is in a state that forbids this."""


class NotRetriableError(ConflictError):
    """The run cannot be retried."""


class InputTooLargeError(PerdureError):
    """The input is larger than Temporal can carry."""


class InvalidInputError(PerdureError):
    """A value that a caller gave cannot be used."""


class CallbackRefusedError(InvalidInputError):
    """The callback URL leads where Perdure does not call."""


class InputRefusedError(InvalidInputError):
    """The agent does not take this."""


class IdempotencyKeyReusedError(InvalidInputError):
    """The idempotency key belongs to another request."""


class AuditError(PerdureError):
    """The audit's store does not do what it must."""


class ChainMovedError(AuditError):
    """The chain does not end where the writer thought: another writer has appended to it."""


class HistoryFileError(PerdureError):
    """The file does not hold a run's history."""


class DecryptionError(PerdureError):
    """A payload cannot be decrypted."""

    def __init__(self, message: str | None = None, *, key_id: str = "") -> None:
        super().__init__(message)
        self.key_id = key_id


class RateLimitedError(PerdureError):
    """There were too many requests."""

    def __init__(self, message: str | None = None, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds until another one is accepted."""


class ApiKeyNotFoundError(PerdureError):
    """No API key has that id."""


class ServerUnreachableError(PerdureError):
    """The Temporal server does not answer."""


class IssuerUnreachableError(PerdureError):
    """The issuer of tokens does not give its keys."""


class NoWorkerError(PerdureError):
    """No worker polls the task queue."""


class ProcessError(PerdureError):
    """A process that a command started ended, or never got ready."""


class ToolError(Exception):
    """A tool's failure, told to the model in the author's words.

    Raising it states a fact: the call had no effect. With `retry=True` Temporal runs a repeatable tool again
    first, and the model sees the message only when the attempts are used up; a `once` tool is never run again.
    """

    def __init__(self, message: str, *, retry: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.retry = retry
