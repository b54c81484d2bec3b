"""A trial start: whether a server comes up with a model, on free ports, and says it serves it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from tei_manager.errors import TeiManagerError
from tei_manager.manager.instance import Desired, Origin, Record
from tei_manager.manager.launcher import launch
from tei_manager.manager.logfile import LogFile
from tei_manager.manager.probe import Probe
from tei_manager.manager.process import GroupProcess
from tei_manager.manager.registry import Registry
from tei_manager.manager.strays import mark
from tei_manager.settings import InstanceSpec

# Between two questions whether it is ready; loading a model takes seconds.
_PAUSE = 0.2

# Of the output, for the sentence that says why it failed.
_LAST_WORDS = 3


async def try_model(registry: Registry, model_id: str) -> str:
    """Start a server with a model, wait until it is ready, and end it.

    Args:
        registry: Gives free ports, the program and the times.
        model_id: Complete on this machine.

    Returns:
        Why it failed; empty for a model that can be served.

    Cancellation:
        Kills the server before it is passed on.
    """
    rules = registry.settings.instances
    # No instance can have the name of this log, whose first character is none of theirs.
    log = LogFile(rules.log_dir / "_trial.log")
    log.path.unlink(missing_ok=True)
    # With every default: what starts here starts as an instance, too.
    spec = InstanceSpec(name="trial", model_id=model_id)
    try:
        port, metrics_port = registry.spare_ports()
        now = datetime.now(UTC)
        record = Record(spec, 0, now, port, metrics_port, Desired.RUNNING, Origin.API)
        program = registry.program(spec)
        known, ours = await registry.flags.of(program), mark(registry.store.path.parent)
        process = launch(program, record, known, "", log, ours)
        try:
            return await _verdict(process, port, model_id, rules.startup_timeout_secs, log)
        finally:
            await process.end(0)
    except TeiManagerError as error:
        return str(error)
    finally:
        registry.return_spare_ports()


async def _verdict(
    process: GroupProcess, port: int, model_id: str, limit: float, log: LogFile
) -> str:
    probe, ended = Probe("127.0.0.1", port), asyncio.create_task(process.wait())
    why = ""
    try:
        async with asyncio.timeout(limit):
            while not ended.done():
                answer = await probe.ready(model_id)
                if answer.good:
                    return ""
                why = answer.detail
                if answer.hopeless:
                    return why
                await asyncio.wait({ended}, timeout=_PAUSE)
        lines = await asyncio.to_thread(log.read, -_LAST_WORDS)
        return f"The server {ended.result()}: {' | '.join(lines.lines)}"
    except TimeoutError:
        return f"Not ready within {limit:g} s: {why}"
    finally:
        ended.cancel()
        await probe.close()
