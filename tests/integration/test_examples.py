"""The examples do what their READMEs say, in each language whose example is built.

Each README's commands run as printed, against a switch in a process of its own with one instance
behind it. `make examples` builds what has to be built; what is not built is skipped. So are the
commands for grpcurl in docs/clients.md where there is none.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from fake_tei import Context, FakeTei, fake_tei
from multiplexer import multiplexer_process

from build_examples import BUILT, EXAMPLES, commands
from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2 as mux_pb2
from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2_grpc as mux_grpc
from tei_manager.grpc.proto.tei.v1 import tei_pb2

ADDRESS = "localhost:9001"
TEXT, TEXTS = "Hello world", ("The first text", "the second", "and a third one")
STREAMING = "python: streaming_client.py"
NAMES = {
    f"{stack}: {Path(line.split()[1 if stack in ('python', 'node') else 0]).name}": (stack, line)
    for stack in ("python", *BUILT)
    for line in commands(stack)[1]
}
"""Each command that runs an example, by the stack and the program."""

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]


@dataclass
class Done:
    """How a command ended."""

    code: int
    output: str
    errors: str


async def run(command: str, folder: Path, address: str) -> Done:
    """Run a command in a shell as printed, but for the address."""
    assert ADDRESS in command
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = await asyncio.create_subprocess_shell(
        command.replace(ADDRESS, address),
        cwd=folder,
        env=os.environ | {"PATH": path, "PYTHONWARNINGS": "error"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(120):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return Done(await process.wait(), output.decode(), errors.decode())


async def run_example(name: str, address: str) -> Done:
    stack, command = NAMES[name]
    if stack in BUILT and not (EXAMPLES / stack / BUILT[stack]).exists():
        pytest.skip(f"examples/{stack} is not built: make examples")
    return await run(command, EXAMPLES / stack, address)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tei() -> AsyncIterator[FakeTei]:
    async with fake_tei(3) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def address(tei: FakeTei) -> AsyncIterator[str]:
    """Yield the address of the switch, which has the instance that the READMEs name."""
    async with multiplexer_process(("minilm", tei.port)) as mux:
        yield mux.address


def request(text: str, instance: str = "minilm") -> mux_pb2.EmbedRequest:
    target = mux_pb2.Target(instance_name=instance)
    return mux_pb2.EmbedRequest(target=target, request=tei_pb2.EmbedRequest(inputs=text))


def line(text: str, answer: tei_pb2.EmbedResponse) -> str:
    return f"{text} -> {len(answer.embeddings)} numbers, the first {answer.embeddings[0]:.4f}"


async def told(address: str) -> list[str]:
    """Return what an example has to print, from what grpcio is told on the same calls."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = mux_grpc.TeiMultiplexerStub(channel)
        answers = stub.EmbedStream(map(request, TEXTS), timeout=60)
        stream = [answer async for answer in answers]
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.Embed(request(TEXT, "no-such-instance"), timeout=60)
        assert failed.value.code() is grpc.StatusCode.NOT_FOUND
        return [
            line(TEXT, await stub.Embed(request(TEXT), timeout=60)),
            *map(line, TEXTS, stream),
            f"NOT_FOUND: {failed.value.details()}",
        ]


@pytest.mark.parametrize("name", NAMES)
async def test_an_example_prints_what_grpcio_is_told_and_gives_its_calls_deadlines(
    name: str, tei: FakeTei, address: str
) -> None:
    expected = await told(address)
    before = len(tei.calls)
    done = await run_example(name, address)
    assert (done.code, done.errors) == (0, "")
    assert done.output.splitlines() == (expected[1:4] if name == STREAMING else expected)
    limits = [call.time_remaining for call in tei.calls[before:]]
    assert limits
    assert all(limit is not None and 0 < limit <= 60 for limit in limits), limits


@pytest.mark.parametrize("name", [name for name in NAMES if name != STREAMING])
async def test_an_example_says_in_a_line_that_nothing_listens(name: str) -> None:
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        done = await run_example(name, f"127.0.0.1:{bound.getsockname()[1]}")
    assert done.code == 1
    assert done.output == ""
    assert len(done.errors.splitlines()) == 1
    assert "unavailable" in done.errors.lower()


class BreaksOff(FakeTei):
    """Ends its first stream after one answer, as an instance does that goes away."""

    async def _answers(self, method: str, call: Any, messages: Any, context: Context) -> Any:
        first = len(self.calls) == 1
        async for answer in super()._answers(method, call, messages, context):
            yield answer
            if first:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")


async def test_the_streaming_example_goes_on_where_a_lost_connection_ended_it() -> None:
    tei = BreaksOff(3)
    await tei.start()
    try:
        async with multiplexer_process(("minilm", tei.port)) as mux:
            done = await run_example(STREAMING, mux.address)
            assert len(tei.calls) == 2
            assert done.output.splitlines() == (await told(mux.address))[1:4]
    finally:
        await tei.stop()


def blocks() -> list[str]:
    text = (EXAMPLES.parent / "docs" / "clients.md").read_text("utf-8")
    return re.findall(r"^```console\n(.*?)^```$", text, re.M | re.S)


def printed(block: str) -> list[str]:
    """Return the commands of a console block; lines that begin otherwise go on with the last."""
    return [command.strip() for command in re.split(r"^\$ ", block, flags=re.M) if command]


async def grpcurl(block: int, address: str) -> list[str]:
    """Run the commands of a block of docs/clients.md; return what each printed."""
    assert len(blocks()) == 4  # each is tried below
    if shutil.which("grpcurl") is None:
        pytest.skip("there is no grpcurl on the PATH")
    done = [await run(command, EXAMPLES, address) for command in printed(blocks()[block])]
    assert [(one.code, one.errors) for one in done] == [(0, "")] * len(done)
    return [one.output for one in done]


def vectors(output: str) -> list[list[float]]:
    """Return the vectors of answers that stand as JSON one after another."""
    answers = re.split(r"(?<=^})\n", output, flags=re.M)
    return [json.loads(answer)["embeddings"] for answer in answers if answer]


async def embed_by_grpcio(address: str, *texts: str) -> list[list[float]]:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = mux_grpc.TeiMultiplexerStub(channel)
        return [list((await stub.Embed(request(text), timeout=60)).embeddings) for text in texts]


async def test_grpcurl_finds_services_and_messages_by_reflection_alone(address: str) -> None:
    services, methods, method, message = await grpcurl(0, address)
    assert {"tei_multiplexer.v1.TeiMultiplexer", "tei.v1.Embed"} <= {*services.split()}
    assert "tei_multiplexer.v1.TeiMultiplexer.EmbedStream" in methods.split()
    assert "( .tei_multiplexer.v1.EmbedRequest ) returns ( .tei.v1.EmbedResponse )" in method
    assert "string inputs = 1;" in message


async def test_grpcurl_embeds_a_text_by_either_service(address: str) -> None:
    expected = await embed_by_grpcio(address, TEXT)
    assert [vectors(output) for output in await grpcurl(1, address)] == [expected] * 2


async def test_grpcurl_streams_several_texts(address: str) -> None:
    (output,) = await grpcurl(2, address)
    assert vectors(output) == await embed_by_grpcio(address, *TEXTS)


async def test_grpcurl_asks_for_health(address: str) -> None:
    answers = [json.loads(output) for output in await grpcurl(3, address)]
    assert answers == [{"status": "SERVING"}] * 2
