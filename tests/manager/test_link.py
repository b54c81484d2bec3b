"""The link: what is heard, and how a worker that is silent is told from one that is busy."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tei_manager import control
from tei_manager.control import Hello
from tei_manager.manager import link as link_module
from tei_manager.manager.link import Link, peer_pid, reach

pytestmark = pytest.mark.asyncio

HELLO = Hello(7, "0.1.0", {"max_message_mb": 1})
WORD = control.line("applied", version=3)


@contextlib.contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The manager's end and the worker's."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def greet(theirs: socket.socket, *more: bytes) -> tuple[str, int]:
    """Say hello with a listening socket; return where it listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        socket.send_fds(theirs, [HELLO.to_line() + b"".join(more)], [listener.fileno()])
        address: tuple[str, int] = listener.getsockname()
        return address


async def test_hello_brings_the_listening_socket_and_loses_nothing_behind_it() -> None:
    with pair() as (ours, theirs):
        address = greet(theirs, WORD, WORD[:5])
        link = await Link.open(ours, 5)
        assert (link.hello, link.address, link.applied) == (HELLO, address, 0)
        theirs.sendall(WORD[5:])
        theirs.shutdown(socket.SHUT_WR)
        heard = []
        await link.listen(lambda: heard.append(link.applied))
        assert heard == [3, 3]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=5)


async def test_listening_socket_that_is_kept_outlives_the_link() -> None:
    with pair() as (ours, theirs):
        address = greet(theirs)
        link = await Link.open(ours, 5)
        listener = link.keep_listener()
        assert listener is not None
        await link.close()
        with listener, socket.create_connection(address, timeout=5):
            pass


@pytest.mark.parametrize(
    "text", [b"garbage\n", b"[]\n", b"{}\n", b'{"type":"hello"}\n', b'{"type":"counters"}\n']
)
async def test_what_is_no_hello_is_refused(text: bytes) -> None:
    with pair() as (ours, theirs):
        theirs.sendall(text)
        with pytest.raises(ValueError, match=r"hello|JSON|Expecting"):
            await Link.open(ours, 5)
        assert ours.fileno() == -1


async def test_worker_without_a_hello_is_waited_for_within_a_limit() -> None:
    with pair() as (ours, _), pytest.raises(TimeoutError):
        await Link.open(ours, 0.05)


async def test_worker_that_closes_before_its_hello_is_told_from_one_that_is_silent() -> None:
    with pair() as (ours, theirs):
        theirs.close()
        with pytest.raises(ConnectionError, match="closed"):
            await Link.open(ours, 5)


async def test_silent_worker_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "REPORT_SECONDS", 0.01)
    with pair() as (ours, theirs):
        greet(theirs)
        link = await Link.open(ours, 5)
        with pytest.raises(TimeoutError, match="nothing heard"):
            await link.listen(lambda: None)


async def test_time_in_which_the_manager_itself_stood_still_is_not_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link_module, "REPORT_SECONDS", 0.1)
    with pair() as (ours, theirs):
        greet(theirs)
        link = await Link.open(ours, 5)
        heard = asyncio.Event()
        listening = asyncio.create_task(link.listen(heard.set))
        theirs.sendall(WORD)
        await asyncio.wait_for(heard.wait(), 5)
        threading.Timer(0.5, theirs.sendall, (WORD,)).start()
        time.sleep(1)  # noqa: ASYNC251  # ten ticks in which this process did nothing
        heard.clear()
        await asyncio.wait_for(heard.wait(), 5)
        theirs.close()
        await listening


async def test_kernel_says_who_listens(tmp_path: Path) -> None:
    server = await asyncio.start_unix_server(lambda _, writer: writer.close(), tmp_path / "w")
    async with server:
        with await reach(tmp_path / "w", 5) as connection:
            assert peer_pid(connection) == os.getpid()


async def test_socket_that_is_not_there_yet_is_waited_for_within_a_limit(tmp_path: Path) -> None:
    reaching = asyncio.create_task(reach(tmp_path / "w", 10))
    await asyncio.sleep(0)  # it has found nothing
    server = await asyncio.start_unix_server(lambda _, writer: writer.close(), tmp_path / "w")
    async with server:
        (await reaching).close()
    with pytest.raises(TimeoutError):
        await reach(tmp_path / "never", 0.05)
