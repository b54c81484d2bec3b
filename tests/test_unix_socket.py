"""A Unix socket and its file: made, left over, in the way of something else, removed."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from tei_manager.errors import LaunchFailed
from tei_manager.unix_socket import UnixAddress, path_of, remove


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_the_file_has_the_mode_that_is_asked_for(tmp_path: Path, mode: int) -> None:
    with UnixAddress(tmp_path / "s", mode).bind(1) as listener:
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == mode
        assert path_of(listener) == tmp_path / "s"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "s"))
        remove(listener)
    assert not (tmp_path / "s").exists()


def test_a_socket_that_nobody_listens_at_is_replaced(tmp_path: Path) -> None:
    address = UnixAddress(tmp_path / "s")
    address.bind(1).close()
    assert (tmp_path / "s").is_socket()
    address.bind(1).close()


def test_a_socket_that_somebody_listens_at_is_left_alone(tmp_path: Path) -> None:
    address = UnixAddress(tmp_path / "s")
    with address.bind(1) as listener:
        with pytest.raises(LaunchFailed, match="another process listens there"):
            address.bind(1)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "s"))
            listener.accept()[0].close()


def test_a_file_and_a_folder_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for path in (tmp_path / "file", tmp_path / "link", tmp_path):
        with pytest.raises(LaunchFailed, match=r"what is there is no socket\); choose another"):
            UnixAddress(path).bind(1)
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("name", ["missing/s", "x" * 200])
def test_a_path_that_cannot_be_is_told_in_a_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(LaunchFailed, match=r"Cannot listen on .*choose another path"):
        UnixAddress(tmp_path / name).bind(1)


def test_a_socket_is_taken_over_only_while_clients_find_it(tmp_path: Path) -> None:
    address = UnixAddress(tmp_path / "s", 0o660)
    assert not address.adopt()
    with UnixAddress(tmp_path / "s").bind(1):
        assert address.adopt()
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o660


def test_a_port_has_no_file() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert path_of(listener) is None
        remove(listener)


def test_no_path_asks_for_no_socket(tmp_path: Path) -> None:
    assert UnixAddress.of(None, "0600") is None
    assert UnixAddress.of(tmp_path / "s", "0660") == UnixAddress(tmp_path / "s", 0o660)
