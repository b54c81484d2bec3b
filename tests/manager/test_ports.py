"""Ports are chosen by a range, and by a bind."""

from __future__ import annotations

import socket

import pytest

from tei_manager.errors import PortAllocationFailed
from tei_manager.manager.ports import choose, is_free


def test_port_that_something_listens_on_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not is_free(port)
    assert is_free(port)


def test_port_that_something_listens_on_at_all_addresses_is_not_free() -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        assert not is_free(server.getsockname()[1])


def test_connection_in_time_wait_does_not_make_a_port_busy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = server.accept()
        accepted.close()  # closes first: TIME_WAIT is on the server's side
        client.close()
    assert is_free(port)


def test_first_port_that_is_free_and_nobodys_is_chosen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        busy = server.getsockname()[1]
        free = next(port for port in range(busy + 2, busy + 200) if is_free(port))
        assert choose([busy, busy + 1, free], taken={busy + 1}) == free


def test_range_without_a_free_port_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(PortAllocationFailed, match="widen"):
        choose([8081], taken={8081})
