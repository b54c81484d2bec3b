"""What is started for an instance: the program, its arguments and its environment.

Rules of this file
    1. A list of arguments, never a shell; values in the form ``--flag=value``, so that no value
       can become a flag.
    2. A clean environment: every flag of the router has a twin in the environment with a generic
       name (``PORT``, ``HOSTNAME``, ``API_KEY``: landmine L14), so only what is named in
       `_KEPT` and `_KEPT_PREFIXES` is handed down.
    3. A flag that the program does not know would end it: what an older router lacks and an
       instance can do without is left out, what somebody asked for is refused with its name.
    4. ``--hostname`` is always an IP address: the router reads any other text as 0.0.0.0 (L13).
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tei_manager.errors import LaunchFailed
from tei_manager.manager import gpus
from tei_manager.manager.instance import Record
from tei_manager.manager.logfile import LogFile
from tei_manager.manager.process import GroupProcess
from tei_manager.settings import InstanceSpec

_KEPT = frozenset({
    "PATH", "HOME", "USER", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "LD_PRELOAD",
    "VIRTUAL_ENV", "PYTHONPATH", "XDG_CACHE_HOME", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
    "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", "LOG_LEVEL",
    "USE_FLASH_ATTENTION",
})  # fmt: skip
_KEPT_PREFIXES = ("HF_", "HUGGINGFACE_HUB_", "CUDA_", "NVIDIA_", "LC_", "OMP_", "MKL_", "RAYON_")

_DISPENSABLE = frozenset({"--json-output", "--prometheus-port", "--uds-path"})
"""Flags that the manager passes of its own accord; a router serves as well without them."""


@dataclass(frozen=True, slots=True)
class Program:
    """What is started for an instance.

    Args:
        kind: ``tei`` or ``engine``.
        command: The first arguments of its argv.
        note: One sentence if it is not what would be expected; empty otherwise.
    """

    kind: str
    command: tuple[str, ...]
    note: str = ""


def find_program(spec: InstanceSpec, tei_binary: str, engines: int = 1) -> Program:
    """Choose the program for an instance.

    ``auto`` takes the router and falls back to the built-in engine where there is none, but never
    for an instance that was promised a GPU.

    Args:
        spec: The instance.
        tei_binary: The router's name or path.
        engines: How many engines share the machine's cores, this one included.

    Raises:
        LaunchFailed: The router is needed and not there.
    """
    found = shutil.which(tei_binary)
    missing = f"'{tei_binary}' is not on the PATH"
    if runs_engine(spec, tei_binary):
        note = f"{missing}; the built-in CPU engine is used instead"
        share = (f"--engines={engines}",) if engines > 1 else ()
        command = (sys.executable, "-m", "tei_manager.engine", *share)
        return Program("engine", command, "" if spec.backend == "engine" else note)
    if not found:
        raise LaunchFailed(f"{missing}; install it or set [instances] tei_binary")
    return Program("tei", (found,))


def runs_engine(spec: InstanceSpec, tei_binary: str) -> bool:
    """Say whether the built-in engine serves an instance."""
    falls_back = spec.backend == "auto" and spec.gpu_id is None
    return spec.backend == "engine" or (falls_back and shutil.which(tei_binary) is None)


def arguments(spec: InstanceSpec, port: int, prometheus_port: int) -> list[str]:
    """Return the flags for an instance, which the router and the engine both understand."""
    flags: dict[str, object] = {
        "model-id": spec.model_id,
        "revision": spec.revision,
        "dtype": spec.dtype,
        "pooling": spec.pooling,
        "max-batch-tokens": spec.max_batch_tokens,
        "max-concurrent-requests": spec.max_concurrent_requests,
        "hostname": "127.0.0.1",
        "port": port,
        "prometheus-port": prometheus_port,
        # The router's own default is one for all, and it deletes what it finds there.
        "uds-path": f"{tempfile.gettempdir()}/tei-manager-{port}",
    }
    given = [f"--{flag}={value}" for flag, value in flags.items() if value is not None]
    return [*given, "--json-output", *spec.extra_args]


def understood(arguments: Iterable[str], known: frozenset[str]) -> list[str]:
    """Return the arguments that a program understands.

    Args:
        arguments: Each as ``--flag`` or ``--flag=value``.
        known: What `flags.KnownFlags` says; empty lets everything pass.

    Raises:
        LaunchFailed: One that somebody asked for is unknown.
    """
    named = {word: word.partition("=")[0] for word in arguments}
    if not known:
        return list(named)
    unknown = {flag for flag in named.values() if flag not in known}
    if wanted := sorted(unknown - _DISPENSABLE):
        raise LaunchFailed(
            f"This text-embeddings-router does not know {', '.join(wanted)}; "
            "leave it out of the instance or install another version"
        )
    return [word for word, flag in named.items() if flag not in unknown]


def inherited(parent: Mapping[str, str]) -> dict[str, str]:
    """Return what of the manager's own environment its programs get."""
    return {
        name: value
        for name, value in parent.items()
        if name in _KEPT or name.startswith(_KEPT_PREFIXES)
    }


def environment(
    spec: InstanceSpec,
    parent: Mapping[str, str],
    api_key: str,
    counted: Callable[[], int] = gpus.count,
) -> dict[str, str]:
    """Return the environment of an instance.

    Args:
        spec: Its ``gpu_id`` counts within the GPUs that the manager may see itself.
        parent: The manager's own environment.
        api_key: Handed over here, because arguments can be read by every user.
        counted: Counts the GPUs of the machine.

    Raises:
        InvalidGpuId: The manager does not see so many GPUs.
    """
    kept = inherited(parent)
    if spec.gpu_id is not None:
        kept |= gpus.chosen(spec.gpu_id, parent, counted)
    if api_key:
        kept["API_KEY"] = api_key
    return kept


def read_api_key(file: str | None) -> str:
    """Return the first line of an ``api_key_file``, empty if there is no such setting.

    Raises:
        LaunchFailed: It cannot be read.
    """
    if file is None:
        return ""
    try:
        lines = Path(file).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LaunchFailed(f"api_key_file cannot be read ({error}); check its path") from error
    return lines[0].strip() if lines else ""


def launch(
    program: Program,
    record: Record,
    known: frozenset[str],
    api_key: str,
    log: LogFile,
    mark: Mapping[str, str],
) -> GroupProcess:
    """Start the process of an instance.

    Args:
        program: From `find_program`.
        record: With the ports to use.
        known: The flags that the program knows; empty if it does not tell.
        api_key: From `read_api_key`.
        log: Where its output goes.
        mark: From `strays.mark`, for its environment.

    Raises:
        TeiManagerError: It could not be started.

    Ownership:
        The process is the caller's to end.
    """
    env = environment(record.spec, os.environ, api_key) | dict(mark)
    log.keep_within()
    flags = understood(arguments(record.spec, record.port, record.prometheus_port), known)
    return GroupProcess.start([*program.command, *flags], env, log)
