"""What outlives the manager: specs, desired states and the history of events, in one SQLite file.

Everything is written before it is announced: each method returns after the commit, and with
``synchronous=FULL`` a commit returns after the disk has it. One thread makes all calls, so the
event loop never waits for a disk and two writes never cross.

Each row of an instance carries a checksum, which a disk or a hand that changed it does not know.
A file that is damaged, of a newer version, or no database is found out on a copy: it stops the
start and is left untouched, its write-ahead log included.

Known flaw
    A write that failed at its last step, the sync, is answered with an error; it may come to light
    all the same after a crash that follows at once, whole.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TypeVar

from pydantic import TypeAdapter, ValidationError

from tei_manager.errors import StateFailed
from tei_manager.manager.instance import Desired, HistoryEntry, Origin, Record
from tei_manager.manager.process import Runtime
from tei_manager.settings import InstanceSpec

T = TypeVar("T")

VERSION = 2
"""Of the schema, kept in SQLite's ``user_version``."""

# Enough for weeks of a healthy instance and for the whole story of a crash loop.
EVENTS_KEPT = 500

# SQLite's smallest page: it takes a file below that for a new one. (One without a single octet is:
# it is what the first start leaves that was killed before it wrote.)
_SMALLEST = 512

_RUNTIME: TypeAdapter[Runtime | None] = TypeAdapter(Runtime | None)

_COLUMNS = (
    "ordinal, name, spec, created_at, port, prometheus_port, desired, origin, restarts, runtime"
)

# Statements are put together of constants alone, whatever S608 takes them for; values are bound.
_SEAL = f"UPDATE instances SET checksum = row_checksum({_COLUMNS}) WHERE ordinal = ?1"  # noqa: S608

# Version 1 had no checksums.
_FROM_1 = f"""
ALTER TABLE instances ADD COLUMN checksum TEXT NOT NULL DEFAULT '';
UPDATE instances SET checksum = row_checksum({_COLUMNS});
PRAGMA user_version = {VERSION};
"""  # noqa: S608

_SCHEMA = f"""
CREATE TABLE instances (
    ordinal INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    spec TEXT NOT NULL,
    created_at TEXT NOT NULL,
    port INTEGER NOT NULL,
    prometheus_port INTEGER NOT NULL,
    desired TEXT NOT NULL,
    origin TEXT NOT NULL,
    restarts INTEGER NOT NULL DEFAULT 0,
    runtime TEXT NOT NULL DEFAULT 'null',
    checksum TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL REFERENCES instances(name) ON DELETE CASCADE,
    at TEXT NOT NULL,
    kind TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT;
CREATE INDEX events_by_name ON events(name, id);
PRAGMA user_version = {VERSION};
"""


class Store:
    """The state file, open and locked.

    Args:
        path: Of the SQLite file; its folder is made with mode 0700 if it is not there.

    Raises:
        StateFailed: Another manager holds the folder, or the file cannot be used.

    Ownership:
        `close` releases the lock, the connection and the thread.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = _lock(path.parent)
        self._thread = ThreadPoolExecutor(1, "state")
        try:
            self._db = self._thread.submit(_open, path).result()
        except BaseException:
            self._thread.shutdown()
            self._lock.close()
            raise

    async def close(self) -> None:
        """Close the file; calls that were made before are finished first."""
        await self._run(self._db.close)
        self._thread.shutdown()
        self._lock.close()

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as error:
            raise StateFailed(f"State file {self.path}: {error}; nothing was changed") from error

    async def records(self) -> list[Record]:
        """Return all records in order of creation.

        Raises:
            StateFailed: A row is not what this version writes; the sentence names it.
        """
        query = f"SELECT {_COLUMNS} FROM instances ORDER BY ordinal"  # noqa: S608
        rows = await self._run(lambda: self._db.execute(query).fetchall())
        return [self._record(row) for row in rows]

    def _record(self, row: tuple[int, str, str, str, int, int, str, str, int, str]) -> Record:
        ordinal, name, spec, created, port, metrics_port, desired, origin, restarts, run = row
        try:
            return Record(
                InstanceSpec.model_validate_json(spec),
                ordinal,
                datetime.fromisoformat(created),
                port,
                metrics_port,
                Desired(desired),
                Origin(origin),
                restarts,
                _RUNTIME.validate_json(run),
            )
        except (ValidationError, ValueError) as error:
            sentence = f"State file {self.path}: instance '{name}' is damaged; restore a backup"
            raise StateFailed(sentence) from error

    async def insert(
        self, spec: InstanceSpec, port: int, prometheus_port: int, desired: Desired, origin: Origin
    ) -> Record:
        """Write a new instance and return its record, with the ordinal that it got."""
        created = datetime.now(UTC)
        values = (spec.name, spec.model_dump_json(), created.isoformat(), port, prometheus_port,
                  desired, origin)  # fmt: skip

        def work() -> int:
            with self._db:
                ordinal = self._db.execute(
                    "INSERT INTO instances (name, spec, created_at, port, prometheus_port,"
                    " desired, origin) VALUES (?, ?, ?, ?, ?, ?, ?)",
                    values,
                ).lastrowid
                assert ordinal is not None
                self._db.execute(_SEAL, (ordinal,))
                return ordinal

        ordinal = await self._run(work)
        return Record(spec, ordinal, created, port, prometheus_port, desired, origin)

    async def update(self, record: Record) -> None:
        """Write what may change in a record: ports, desired state, owner, restarts, process."""
        values = (record.port, record.prometheus_port, record.desired, record.origin,
                  record.restarts, _RUNTIME.dump_json(record.runtime).decode(),
                  record.ordinal)  # fmt: skip

        def work() -> None:
            with self._db:
                self._db.execute(
                    "UPDATE instances SET port = ?, prometheus_port = ?, desired = ?, origin = ?,"
                    " restarts = ?, runtime = ? WHERE ordinal = ?",
                    values,
                )
                self._db.execute(_SEAL, (record.ordinal,))

        await self._run(work)

    async def delete(self, record: Record) -> None:
        """Remove an instance and its history."""

        def work() -> None:
            with self._db:
                self._db.execute("DELETE FROM instances WHERE ordinal = ?", (record.ordinal,))

        await self._run(work)

    async def remember(self, name: str, kind: str, detail: str, at: datetime | None = None) -> None:
        """Add to an instance's history, of which the last `EVENTS_KEPT` entries are kept.

        Args:
            name: Of the instance; of one that does not exist nothing is kept.
            kind: What happened.
            detail: Why.
            at: When, in UTC; now if not given.
        """
        values = (name, (at or datetime.now(UTC)).isoformat(), kind, detail)

        def work() -> None:
            with self._db:
                self._db.execute(
                    "INSERT INTO events (name, at, kind, detail)"
                    " SELECT name, ?2, ?3, ?4 FROM instances WHERE name = ?1",
                    values,
                )
                self._db.execute(
                    "DELETE FROM events WHERE name = ?1 AND id <= (SELECT id FROM events"
                    " WHERE name = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
                    (name, EVENTS_KEPT),
                )

        await self._run(work)

    async def history(self, name: str) -> list[HistoryEntry]:
        """Return what happened to an instance, oldest first.

        Raises:
            StateFailed: An entry is not what this version writes.
        """
        query = "SELECT at, kind, detail FROM events WHERE name = ? ORDER BY id"
        rows = await self._run(lambda: self._db.execute(query, (name,)).fetchall())
        try:
            return [HistoryEntry(datetime.fromisoformat(at), kind, text) for at, kind, text in rows]
        except (ValueError, TypeError) as error:
            sentence = f"State file {self.path}: the history of instance '{name}' is damaged"
            raise StateFailed(f"{sentence}; restore a backup") from error


def _lock(folder: Path) -> IO[str]:
    """Take the folder's lock; the system releases it when this process ends, however it ends."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = (folder / "manager.lock").open("a+")
    except OSError as error:
        sentence = f"State folder {folder} cannot be used ({error}); choose another [state] path"
        raise StateFailed(sentence) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        sentence = (
            f"Another TEI Manager (pid {holder}) uses the state folder {folder}; "
            "stop it, or choose another [state] path"
        )
        raise StateFailed(sentence) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _open(path: Path) -> sqlite3.Connection:
    """Open the file, check it before anything is written to it, and make the schema if new."""
    db = None
    try:
        if path.exists() and (size := path.stat().st_size):
            if size < _SMALLEST:
                raise sqlite3.DatabaseError(f"it has {size} octets")
            _examine(path)
        db = sqlite3.connect(path, check_same_thread=False)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        db.create_function("row_checksum", _COLUMNS.count(",") + 1, _checksum)
        step = {0: _SCHEMA, 1: _FROM_1}.get(db.execute("PRAGMA user_version").fetchone()[0])
        if step is not None:
            db.executescript(f"BEGIN IMMEDIATE; {step} COMMIT;")
        path.chmod(0o600)
    except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
        if db is not None:
            db.close()
        sentence = f"State file {path} cannot be used ({error}); restore a backup or move it away"
        raise StateFailed(sentence) from error
    return db


def _checksum(*row: object) -> str:
    # What a damaged row holds may be of any type.
    return hashlib.sha256(json.dumps(row, default=repr).encode()).hexdigest()


def _examine(path: Path) -> None:
    """Refuse a file that is damaged or newer, after a look at a copy of it and of its log."""
    with tempfile.TemporaryDirectory(prefix="tei-manager-") as folder:
        copy = Path(folder) / "state.db"
        shutil.copyfile(path, copy)
        wal = path.with_name(f"{path.name}-wal")
        if wal.exists():
            shutil.copyfile(wal, copy.with_name("state.db-wal"))
        db = sqlite3.connect(copy)
        try:
            _examine_copy(db, path)
        finally:
            db.close()


def _examine_copy(db: sqlite3.Connection, path: Path) -> None:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version < 0:
        raise StateFailed(f"State file {path} is damaged (version {version}); restore a backup")
    if version > VERSION:
        sentence = f"State file {path} is of version {version}, newer than this program knows"
        raise StateFailed(f"{sentence} ({VERSION}); install a newer TEI Manager")
    verdict = db.execute("PRAGMA quick_check").fetchone()[0]
    if verdict != "ok":
        raise StateFailed(f"State file {path} is damaged ({verdict}); restore a backup")
    if version == VERSION:
        rows = db.execute(f"SELECT {_COLUMNS}, checksum FROM instances")  # noqa: S608
        for *row, checksum in rows:
            if _checksum(*row) != checksum:
                raise StateFailed(
                    f"State file {path}: instance '{row[1]}' is damaged; restore a backup"
                )
