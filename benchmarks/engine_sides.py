"""The processes that `benchmarks.engine` compares."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import grpc

from tei_manager.grpc.proto.tei.v1 import tei_pb2, tei_pb2_grpc

Batches = list[list[list[int]]]

STOP_SECONDS = 20


class Process:
    """A child with pipes.

    Ownership:
        `close`, or leaving it as a context, ends it.
    """

    def __init__(self, argv: list[str]) -> None:
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"ended with {self._process.wait()}: {self._process.args!r}")
        return line

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process and wait for it."""
        self._process.terminate()
        self._process.communicate(timeout=STOP_SECONDS)


class Worker(Process):
    """`benchmarks.engine_worker` with one of its sides."""

    def __init__(self, argv: list[str]) -> None:
        super().__init__(argv)
        self._line()

    @classmethod
    def bare(cls, model: str) -> Worker:
        """Return the engine's session by itself."""
        return cls([sys.executable, "-m", "benchmarks.engine_worker", "bare", model])

    @classmethod
    def torch(cls, python: str, model: str) -> Worker:
        """Return `sentence-transformers`, run by the Python that has it."""
        return cls([python, str(Path(__file__).with_name("engine_worker.py")), "torch", model])

    @staticmethod
    def versions(python: str) -> str:
        """Return which torch that Python has."""
        code = (
            "import torch, sentence_transformers as st;"
            "print(f'torch {torch.__version__}, sentence-transformers {st.__version__}')"
        )
        command = [python, "-c", code]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def _ask(self, **order: object) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._line())

    def single(self, text: str, times: int) -> list[float]:
        """Return the milliseconds of each run of a text by itself."""
        found: list[float] = self._ask(single=text, times=times)["ms"]
        return found

    def many(self, texts: list[str]) -> float:
        """Return the seconds for all texts."""
        return float(self._ask(many=texts)["seconds"])

    def batches(self, batches: Batches) -> float:
        """Return the seconds for these batches of token ids."""
        return float(self._ask(batches=batches)["seconds"])


class Engine(Process):
    """``tei-engine`` with MiniLM, and a client of it.

    Args:
        model: The model's directory.
        batches: Where the engine writes the batches that it runs.
    """

    def __init__(self, model: str, batches: Path) -> None:
        started = time.perf_counter()
        address = ["--hostname", "127.0.0.1", "--port", "0", "--prometheus-port", "0"]
        recorded = [sys.executable, "-m", "benchmarks.engine_recorded", str(batches)]
        super().__init__([*recorded, "--model-id", model, *address])
        self._batches = batches
        port = self._read_port()
        self.start_seconds = time.perf_counter() - started
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self._embed: Any = tei_pb2_grpc.EmbedStub(channel)
        self._info: Any = tei_pb2_grpc.InfoStub(channel)

    def _read_port(self) -> str:
        """Read the log until the engine is ready."""
        port = ""
        while "Ready" not in (line := self._line()):
            if found := re.search(r"server: .*:(\d+)", line):
                port = found[1]
        return port

    def single(self, text: str, times: int) -> list[float]:
        """Return the milliseconds of each unary call with a text."""
        request = tei_pb2.EmbedRequest(inputs=text, truncate=True)
        return [_milliseconds(lambda: self._embed.Embed(request)) for _ in range(times)]

    def info(self, times: int) -> list[float]:
        """Return the milliseconds of calls that run no model: what gRPC costs by itself."""
        request = tei_pb2.InfoRequest()
        return [_milliseconds(lambda: self._info.Info(request)) for _ in range(times)]

    def many(self, texts: list[str]) -> float:
        """Return the seconds for all texts through one EmbedStream."""
        self.take_batches()
        requests = (tei_pb2.EmbedRequest(inputs=text, truncate=True) for text in texts)
        started = time.perf_counter()
        answers = sum(1 for _ in self._embed.EmbedStream(requests))
        elapsed = time.perf_counter() - started
        if answers != len(texts):
            raise RuntimeError(f"{answers} answers to {len(texts)} texts")
        return elapsed

    def take_batches(self) -> Batches:
        """Return the batches run since this was last asked, and forget them."""
        lines = self._batches.read_text().splitlines()
        self._batches.write_text("")
        return [json.loads(line) for line in lines]

    def peak_mb(self) -> float:
        """Return the most memory that the engine has had resident, in MB (Linux)."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        return int(found[1]) * 1024 / 1e6 if found else float("nan")


def _milliseconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1e3
