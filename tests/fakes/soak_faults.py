"""What happens to the instances of a soak: one fault after the other, by turns.

Each ends with the instance answering again on its port, through the multiplexer.
"""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

from tei_process import TeiProcess

PAUSE_SECONDS = 30.0
"""Between two faults."""

DOWN_SECONDS = 3.0
"""How long an instance is stopped or frozen."""


class Faults:
    """Does one thing after the other to instances.

    Args:
        instances: By name.
        answers: Waits until an instance of that name answers.

    ``away`` has the kind of fault by the name of an instance that is away now; ``done`` counts.
    """

    def __init__(
        self, instances: Mapping[str, TeiProcess], answers: Callable[[str], Awaitable[None]]
    ) -> None:
        self._instances, self._answers = instances, answers
        self.away: dict[str, str] = {}
        self.done: Counter[str] = Counter()

    async def run(self, pause: float) -> None:
        """Go on until cancelled, with ``pause`` seconds before each fault."""
        kinds = {
            "killed": self._killed,
            "stopped": self._stopped,
            "frozen": self._frozen,
            "replaced": self._replaced,
        }
        while True:
            for kind, fault in kinds.items():
                for name, instance in self._instances.items():
                    await asyncio.sleep(pause)
                    self.away[name] = kind
                    await fault(instance)
                    await self._answers(name)
                    del self.away[name]
                    self.done[kind] += 1

    async def _killed(self, instance: TeiProcess) -> None:
        await instance.kill()
        await instance.start()

    async def _stopped(self, instance: TeiProcess) -> None:
        await instance.kill(signal.SIGTERM)
        await asyncio.sleep(DOWN_SECONDS)
        await instance.start()

    async def _frozen(self, instance: TeiProcess) -> None:
        instance.signal(signal.SIGSTOP)
        await asyncio.sleep(DOWN_SECONDS)
        instance.signal(signal.SIGCONT)

    async def _replaced(self, instance: TeiProcess) -> None:
        """Start another one in its place, whose answers differ."""
        await instance.kill()
        instance.seed += len(self._instances)
        await instance.start()
