"""What the state file should have and could not be given: kept in memory until there is room.

What somebody asks for is refused while it cannot be written down. What simply happens, a crash and
the restart after it, cannot be refused: an instance is looked after all the same, and its record
and history wait here. The log has one line when the first write fails and one when all that
waited is in the file.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from datetime import UTC, datetime

from tei_manager.errors import StateFailed
from tei_manager.manager.instance import HistoryEntry, Record
from tei_manager.manager.store import EVENTS_KEPT, Store

log = logging.getLogger(__name__)

PAUSE = 5.0
"""Seconds between two attempts to write what waits: nobody frees a disk much faster."""


class Backlog:
    """Writes to a store in the order given, some of which may wait.

    Args:
        store: Open; stays the caller's to close.

    Ownership:
        `close` ends the attempts, after a last one.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._records: dict[int, Record] = {}
        self._entries: deque[tuple[str, HistoryEntry]] = deque(maxlen=EVENTS_KEPT)
        self._retrying: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Backlog: {len(self._records)} records, {len(self._entries)} entries>"

    @property
    def waits(self) -> bool:
        """Whether there is anything that the state file should have and does not."""
        return bool(self._records or self._entries)

    def has(self, record: Record) -> bool:
        """Whether an instance's record waits."""
        return record.ordinal in self._records

    async def update(self, record: Record) -> None:
        """Write a record now.

        Raises:
            StateFailed: It cannot be written; what waits is as it was.
        """
        await self._store.update(record)
        self._records.pop(record.ordinal, None)  # an older state of it

    async def keep(self, record: Record) -> None:
        """Write a record now or as soon as that is possible."""
        try:
            await self.update(record)
        except StateFailed as error:
            self._begin(error)
            self._records[record.ordinal] = record

    async def remember(self, name: str, kind: str, detail: str) -> None:
        """Add to an instance's history now or as soon as that is possible."""
        entry = HistoryEntry(datetime.now(UTC), kind, detail)
        try:
            await self._store.remember(name, kind, detail, entry.at)
        except StateFailed as error:
            self._begin(error)
            self._entries.append((name, entry))

    async def delete(self, record: Record) -> None:
        """Remove an instance and its history, what waits of it included.

        Raises:
            StateFailed: It cannot be removed.
        """
        await self._store.delete(record)
        self._records.pop(record.ordinal, None)
        kept = [pair for pair in self._entries if pair[0] != record.spec.name]
        self._entries = deque(kept, EVENTS_KEPT)

    async def history(self, name: str) -> list[HistoryEntry]:
        """Return what happened to an instance, oldest first, as far as it is kept.

        Raises:
            StateFailed: An entry of the file is damaged.
        """
        written = await self._store.history(name)
        waiting = [entry for owner, entry in self._entries if owner == name]
        return sorted([*written, *waiting], key=lambda entry: entry.at)

    async def flush(self) -> None:
        """Write what waits.

        Raises:
            StateFailed: Some of it still cannot be written, and waits on.
        """
        for ordinal, record in list(self._records.items()):
            await self._store.update(record)
            if self._records.get(ordinal) is record:
                del self._records[ordinal]
        while self._entries:
            name, entry = first = self._entries[0]
            await self._store.remember(name, entry.kind, entry.detail, entry.at)
            if self._entries and self._entries[0] is first:
                self._entries.popleft()

    async def close(self) -> None:
        """Try once more to write what waits, and give up what cannot be written."""
        if self._retrying is not None:
            self._retrying.cancel()
            await asyncio.gather(self._retrying, return_exceptions=True)
        with contextlib.suppress(StateFailed):
            await self.flush()

    def _begin(self, error: StateFailed) -> None:
        """Say what is wrong, unless that was said, and see to it that what waits is written."""
        if self._retrying is None:
            log.error("%s; it is kept in memory until it can be written", error)
            self._retrying = asyncio.create_task(self._retry(), name="state backlog")

    async def _retry(self) -> None:
        while True:
            await asyncio.sleep(PAUSE)
            with contextlib.suppress(StateFailed):
                await self.flush()
                break
        self._retrying = None
        log.info("The state file can be written again, and has what happened meanwhile")
