"""Which settings a running manager takes over from a file that was changed. Pure."""

from __future__ import annotations

from typing import Any

from tei_manager.settings.sections import Settings

RELOADED: frozenset[tuple[str, str]] = frozenset({
    ("grpc", "default_instance"),
    ("log", "level"),
    ("health", "interval_secs"),
    ("health", "failures_before_restart"),
    ("instances", "port_start"),
    ("instances", "port_end"),
    ("instances", "metrics_port_start"),
    ("instances", "metrics_port_end"),
    ("instances", "max"),
    ("instances", "tei_binary"),
    ("instances", "startup_timeout_secs"),
    ("instances", "stop_timeout_secs"),
    ("instances", "on_exit"),
    ("instances", "model_dirs"),
    ("instances", "api_key_dirs"),
    ("instances", "external_hosts"),
})  # fmt: skip
"""What takes effect at a reload; ``[health]`` and the start-up time-out at an instance's next
start. Everything else is bound, opened or handed to workers when the manager starts."""


def reloaded(running: Settings, wanted: Settings) -> tuple[Settings, list[str]]:
    """Return what is in force after a reload.

    Args:
        running: What is in force now.
        wanted: What the sources say now.

    Returns:
        The settings, and the names of those that keep their value until the manager is started
        again, such as ``api.port``.
    """
    kept: list[str] = []
    update: dict[str, Any] = {"instance": wanted.instance}
    for section in Settings.model_fields.keys() - update.keys():
        old, new = getattr(running, section), getattr(wanted, section)
        changed = [key for key in type(old).model_fields if getattr(old, key) != getattr(new, key)]
        kept += [f"{section}.{key}" for key in changed if (section, key) not in RELOADED]
        taken = {key: getattr(new, key) for key in changed if (section, key) in RELOADED}
        update[section] = old.model_copy(update=taken)
    return running.model_copy(update=update), sorted(kept)
