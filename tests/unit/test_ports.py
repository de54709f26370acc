"""Ports: taken ones are refused by name, before anything is started."""

from __future__ import annotations

import socket

import pytest

from perdure.errors import ConfigurationError
from perdure_workers.ports import LOOPBACK, PortUse, free_port, require_free


def test_a_taken_port_is_named_with_its_purpose_and_the_flag_that_chooses_another() -> None:
    """Whoever meets a taken port is told which, whose, and what to type."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        taken = listener.getsockname()[1]

        with pytest.raises(ConfigurationError) as caught:
            require_free([PortUse(taken, "API", "--api-port"), PortUse(free_port(), "Web UI", "--ui-port")])

    assert str(caught.value) == f"port {taken} (API) is taken; choose another with --api-port PORT"


def test_all_taken_ports_are_named_at_once() -> None:
    """Two taken ports cost one attempt, not two."""
    with socket.create_server((LOOPBACK, 0)) as first, socket.create_server((LOOPBACK, 0)) as second:
        ports = [first.getsockname()[1], second.getsockname()[1]]

        with pytest.raises(ConfigurationError) as caught:
            require_free([PortUse(ports[0], "API", "--api-port"), PortUse(ports[1], "Web UI", "--ui-port")])

    assert all(str(port) in str(caught.value) for port in ports)


def test_one_port_cannot_serve_two_purposes() -> None:
    """Asking for the same port twice is refused although it is free."""
    port = free_port()

    with pytest.raises(ConfigurationError, match="also asked for as API port"):
        require_free([PortUse(port, "API", "--api-port"), PortUse(port, "Web UI", "--ui-port")])


def test_a_port_whose_last_connection_is_closing_is_free() -> None:
    """A restart right after a stop is not refused for connections in TIME_WAIT."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection((LOOPBACK, port)) as client:
            accepted, _ = listener.accept()
            accepted.close()
            client.recv(1)

    require_free([PortUse(port, "API", "--api-port")])
