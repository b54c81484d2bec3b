"""SIGHUP: a serving manager reads its file anew, and calls under way do not notice."""

from __future__ import annotations

import os
import pty
import queue
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
from served import command_of, served

from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2 as mux_pb2
from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2_grpc as mux_grpc
from tei_manager.grpc.proto.tei.v1 import tei_pb2

TABLE = """
[[instance]]
name = "{name}"
model_id = "org/model"
"""


def _append(folder: Path, text: str) -> None:
    with (folder / "config.toml").open("a") as file:
        file.write(text)


def _requests(texts: queue.SimpleQueue[str | None]) -> Iterator[mux_pb2.EmbedRequest]:
    while (text := texts.get()) is not None:
        target = mux_pb2.Target(instance_name="kept")
        yield mux_pb2.EmbedRequest(target=target, request=tei_pb2.EmbedRequest(inputs=text))


def _names(url: str) -> Any:
    return {row["name"] for row in httpx.get(f"{url}/instances", trust_env=False).json()}


def test_stream_to_an_unchanged_instance_goes_on_over_a_reload(tmp_path: Path) -> None:
    with served(tmp_path, TABLE.format(name="kept"), real_worker=True) as manager:
        shown = httpx.get(f"{manager.url}/instances/kept?wait=60", timeout=70, trust_env=False)
        assert shown.json()["status"] == "running"
        address = next(
            line["message"].rpartition("gRPC on ")[2]
            for line in manager.lines
            if line["message"].startswith("Serving: ")
        )
        texts: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        with grpc.insecure_channel(address) as channel:
            stub = mux_grpc.TeiMultiplexerStub(channel)
            answers: Any = stub.EmbedStream(_requests(texts), timeout=60, wait_for_ready=True)
            texts.put("before")
            assert next(answers).embeddings[0] == 6
            _append(tmp_path, TABLE.format(name="new"))
            manager.process.send_signal(signal.SIGHUP)
            assert manager.read_until("Reloaded") == "Reloaded: created new"
            texts.put("after")
            assert next(answers).embeddings[0] == 5
            texts.put(None)
            assert list(answers) == []
        assert _names(manager.url) == {"kept", "new"}


def test_file_with_mistakes_changes_nothing_and_each_is_told(tmp_path: Path) -> None:
    with served(tmp_path, TABLE.format(name="kept")) as manager:
        _append(tmp_path, "prot = 1\n" + TABLE.format(name="BAD"))
        manager.process.send_signal(signal.SIGHUP)
        assert "unknown key" in manager.read_until("Not reloaded: ")
        assert "instance.1.name" in manager.read_until("Not reloaded: ")
        assert _names(manager.url) == {"kept"}


def test_terminal_that_goes_away_is_the_end(tmp_path: Path) -> None:
    command = command_of(tmp_path)
    ours, theirs = pty.openpty()
    command[2] = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n" + command[2]
    with subprocess.Popen(
        command, stdin=theirs, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        os.close(theirs)
        assert process.stderr is not None
        for line in process.stderr:
            if "Serving: " in line:
                break
        os.close(ours)
        assert process.wait(60) == 0
