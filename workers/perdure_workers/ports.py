"""TCP ports of the programs that Perdure starts on this machine: choosing free ones, refusing taken ones."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from perdure.errors import ConfigurationError

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class PortUse:
    """A port somebody wants to listen on."""

    number: int
    purpose: str
    """Whose port it is, as in "Temporal's gRPC"."""
    flag: str
    """The command line's option that chooses another."""


def free_port() -> int:
    """Return a loopback port that nobody listens on at the moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def chosen_port(number: int) -> int:
    """Return the port asked for, or a free one for 0."""
    return number or free_port()


def require_free(uses: Iterable[PortUse]) -> None:
    """Check that all these ports can be listened on, so that a start fails before half of it is up.

    Raises:
        ConfigurationError: Some cannot; the message names each with the option that chooses another.
    """
    problems = []
    seen: dict[int, PortUse] = {}
    for use in uses:
        problem = _why_not(use.number)
        if use.number in seen:
            problem = f"also asked for as {seen[use.number].purpose} port"
        seen[use.number] = use
        if problem:
            problems.append(f"port {use.number} ({use.purpose}) is {problem}; choose another with {use.flag} PORT")
    if problems:
        raise ConfigurationError("\n".join(problems))


def _why_not(number: int) -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # A port whose last connections are still closing is free for a new listener.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, number))
        except OSError as error:
            return "taken" if error.errno == errno.EADDRINUSE else f"not usable ({error.strerror})"
    return None
