"""A changed settings file in a running manager: what differs is done, and nothing else touched.

Rules of this file
    1. The file owns its instances: one that it no longer has is removed, one that it changed is
       replaced, also one of the same name that the API had made.
    2. Everything else goes on: processes, routes and the calls on them.
    3. One instance that cannot be made keeps no other from being made.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from tei_manager.errors import TeiManagerError
from tei_manager.manager.instance import Origin
from tei_manager.manager.registry import Registry
from tei_manager.settings import Settings

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Outcome:
    """Names of the instances that a reload created, replaced, removed, or could not make."""

    created: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        told = {"created": self.created, "replaced": self.replaced, "removed": self.removed,
                "failed": self.failed}  # fmt: skip
        return "; ".join(f"{verb} {', '.join(names)}" for verb, names in told.items() if names)


async def reload(registry: Registry, settings: Settings) -> Outcome:
    """Make a registry's instances those of the settings.

    Args:
        registry: Restored.
        settings: In force from now on.

    Cancellation:
        Leaves the instances that were dealt with as they are; another reload goes on.
    """
    registry.settings = settings
    wanted = {spec.name: spec for spec in settings.instance}
    outcome = Outcome()
    for status in registry.statuses():
        spec = wanted.get(status.name)
        if spec == status.record.spec:
            del wanted[status.name]
        elif spec is not None:
            outcome.replaced.append(status.name)
        elif status.record.origin is Origin.FILE:
            outcome.removed.append(status.name)
    await asyncio.gather(
        *(_remove(registry, name, outcome) for name in (*outcome.replaced, *outcome.removed))
    )
    for spec in wanted.values():
        if spec.name in outcome.failed:
            continue
        try:
            await registry.create(spec, Origin.FILE)
        except TeiManagerError as error:
            log.error(
                "Instance '%s' of the settings file: %s", spec.name, error,
                extra={"instance": spec.name},
            )  # fmt: skip
            outcome.failed.append(spec.name)
        else:
            if spec.name not in outcome.replaced:
                outcome.created.append(spec.name)
    outcome.replaced = [name for name in outcome.replaced if name not in outcome.failed]
    outcome.removed = [name for name in outcome.removed if name not in outcome.failed]
    await registry.announce()
    return outcome


async def _remove(registry: Registry, name: str, outcome: Outcome) -> None:
    try:
        await registry.remove(name)
    except TeiManagerError as error:
        log.error("Instance '%s' could not be removed: %s", name, error,
                  extra={"instance": name})  # fmt: skip
        outcome.failed.append(name)
