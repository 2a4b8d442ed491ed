"""Which chunk lies where: what the index objects of the head say, in a database that can be lost.

The database is made of sealed index objects and nothing else; it knows which ones. Without it,
or when it is damaged, they are read again. What was stored since the last commit is kept in
memory, up to a bound, and then in the database too.
"""

import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from sealift.errors import LocalStateError
from sealift.private import make_private_folder, open_private
from sealift.repository.commits import IndexRef
from sealift.repository.packs import Entry, Toc
from sealift.sealing.chunks import ChunkKind

PENDING_ENTRIES = 200_000
"""Chunks that are kept in memory, some 60 MiB; more go to the database."""
CACHE_KIB = 64 * 1024
"""Pages of the database that are kept in memory."""
_BATCH = 500
"""Ids of one query; SQLite takes 32,766 parameters, and plans for fewer faster."""
_VERSION = 1

_SCHEMA = """
CREATE TABLE sources (name TEXT PRIMARY KEY, digest BLOB NOT NULL);
CREATE TABLE packs (no INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE NOT NULL,
    kind INTEGER NOT NULL, size INTEGER NOT NULL, count INTEGER NOT NULL);
CREATE TABLE members (source TEXT NOT NULL, pack INTEGER NOT NULL, PRIMARY KEY (source, pack))
    WITHOUT ROWID;
CREATE INDEX packs_of ON members (pack);
CREATE TABLE chunks (id BLOB NOT NULL, pack INTEGER NOT NULL, at INTEGER NOT NULL,
    length INTEGER NOT NULL, plain INTEGER NOT NULL, epoch INTEGER NOT NULL,
    codec INTEGER NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (id, pack)) WITHOUT ROWID;
"""

_WHERE = "SELECT id, pack, at, length, plain, epoch, codec FROM chunks WHERE id IN"
_WHICH = "SELECT id, pack, position FROM chunks WHERE id IN"


class Location(NamedTuple):
    """Where a chunk lies, and what is needed to open it."""

    pack: str
    offset: int
    length: int
    plain: int
    epoch: int
    codec: int


class PackRow(NamedTuple):
    """A pack of the index.

    Attributes:
        no: number in this database.
        name: of the object.
        kind: of its chunks.
        size: bytes of the object.
        chunks: how many are in it.
    """

    no: int
    name: str
    kind: ChunkKind
    size: int
    chunks: int


class ChunkIndex:
    """Chunk id to place. Thread-safe.

    Memory: ``PENDING_ENTRIES`` and ``CACHE_KIB``, whatever the repository's size.

    Args:
        folder: where the database lives; None = in a temporary file that goes with the process.
        name: of the database: one for each repository.
    """

    def __init__(self, folder: Path | None, name: str) -> None:
        self._lock = threading.Lock()
        self._path: Path | None = None
        self._guard = -1
        if folder is not None:
            self._claim(folder, name)
        self._db = self._opened()
        self._pending: dict[ChunkKind, dict[bytes, tuple[str, Entry]]] = {
            kind: {} for kind in ChunkKind
        }
        self._pending_tocs: dict[str, Toc] = {}
        self._known_packs = self._read_packs()

    # ------------------------------------------------------------------ the file

    def _claim(self, folder: Path, name: str) -> None:
        """Use the file, unless another process does: it would see packs come and go."""
        make_private_folder(folder)
        self._guard = open_private(folder, f"{name}.lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(self._guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._guard)
            self._guard = -1
            return
        self._path = folder / f"{name}.sqlite"
        os.close(open_private(folder, self._path.name, os.O_RDWR | os.O_CREAT))

    def _opened(self) -> sqlite3.Connection:
        try:
            return self._connected()
        except sqlite3.DatabaseError:
            self._remove()
            return self._connected()

    def _connected(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path or "", check_same_thread=False, isolation_level=None)
        db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        db.execute(f"PRAGMA journal_mode = {'WAL' if self._path else 'MEMORY'}")
        db.execute("PRAGMA synchronous = NORMAL")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version not in (0, _VERSION):
            raise sqlite3.DatabaseError("of another version")
        if version == 0:
            db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
        db.execute("DELETE FROM packs WHERE no NOT IN (SELECT pack FROM members)")
        return db

    def _remove(self) -> None:
        if self._path is not None:
            for suffix in ("", "-wal", "-shm"):
                with suppress(FileNotFoundError):
                    os.unlink(f"{self._path}{suffix}")
            os.close(open_private(self._path.parent, self._path.name, os.O_RDWR | os.O_CREAT))

    def close(self) -> None:
        """Free the file; idempotent."""
        self._db.close()
        if self._guard >= 0:
            os.close(self._guard)
            self._guard = -1

    # ------------------------------------------------------------------ following the head

    def follow(
        self,
        refs: Sequence[IndexRef],
        fetch: Callable[[IndexRef], list[Toc]],
        pending: Collection[str],
    ) -> None:
        """Know what these index objects say, and nothing else beside packs that are ``pending``.

        Raises:
            IntegrityError: an index object is damaged or missing; as before otherwise.
        """
        wanted = {ref.name: ref for ref in refs}
        with self._lock, self._errors():
            known = dict(self._db.execute("SELECT name, digest FROM sources").fetchall())
        for name, digest in known.items():
            if name not in wanted or wanted[name].digest != digest:
                self._forget_source(name)
        for name, ref in wanted.items():
            if known.get(name) != ref.digest:
                self._learn_source(ref, fetch(ref))
        self._forget_pending(pending)
        self._known_packs = self._read_packs()

    def _forget_pending(self, but: Collection[str]) -> None:
        """What is pending no more was committed, and is in an index object, or is gone."""
        for toc in [t for name, t in self._pending_tocs.items() if name not in but]:
            self._settle(toc)
        with self._lock, self._transaction() as db:
            query = "SELECT no, name FROM packs, members WHERE pack = no AND source = ''"
            spilled = [no for no, name in db.execute(query).fetchall() if name not in but]
            db.executemany(
                "DELETE FROM members WHERE source = '' AND pack = ?", [(n,) for n in spilled]
            )
            db.execute("DELETE FROM packs WHERE no NOT IN (SELECT pack FROM members)")

    def _forget_source(self, name: str) -> None:
        with self._lock, self._transaction() as db:
            db.execute("DELETE FROM members WHERE source = ?", (name,))
            db.execute("DELETE FROM sources WHERE name = ?", (name,))
            # rows of chunks stay, they lead to no pack; numbers of packs never come again
            db.execute("DELETE FROM packs WHERE no NOT IN (SELECT pack FROM members)")

    def _learn_source(self, ref: IndexRef, tocs: list[Toc]) -> None:
        with self._lock, self._transaction() as db:
            for toc in tocs:
                no = self._insert_pack(db, toc)
                db.execute("INSERT OR IGNORE INTO members VALUES (?, ?)", (ref.name, no))
            db.execute("INSERT OR REPLACE INTO sources VALUES (?, ?)", (ref.name, ref.digest))
        for toc in tocs:
            self._settle(toc)  # what the database knows need not be kept in memory

    def _insert_pack(self, db: sqlite3.Connection, toc: Toc) -> int:
        row = db.execute("SELECT no FROM packs WHERE name = ?", (toc.pack,)).fetchone()
        if row is not None:
            return int(row[0])
        values = (toc.pack, toc.kind.value, toc.size, len(toc))
        query = "INSERT INTO packs (name, kind, size, count) VALUES (?, ?, ?, ?)"
        no = db.execute(query, values).lastrowid
        db.executemany(
            "INSERT OR REPLACE INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (e.id, no, e.offset, e.length, e.plain, e.epoch, e.codec, position)
                for position, e in enumerate(toc.entries())
            ),
        )
        return int(no or 0)

    def _settle(self, toc: Toc) -> None:
        """Keep it in memory no more."""
        with self._lock:
            if self._pending_tocs.pop(toc.pack, None) is not None:
                entries = self._pending[toc.kind]
                for entry in toc.entries():
                    if entries.get(entry.id, ("",))[0] == toc.pack:
                        del entries[entry.id]

    # ------------------------------------------------------------------ pending packs

    def add(self, toc: Toc) -> None:
        """Know a pack that no commit names yet."""
        with self._lock:
            self._pending_tocs[toc.pack] = toc
            entries = self._pending[toc.kind]
            for entry in toc.entries():
                entries[entry.id] = (toc.pack, entry)
            full = sum(len(held) for held in self._pending.values()) > PENDING_ENTRIES
        if full:
            self._spill()

    def _spill(self) -> None:
        with self._lock, self._transaction() as db:
            for toc in self._pending_tocs.values():
                no = self._insert_pack(db, toc)
                db.execute("INSERT OR IGNORE INTO members VALUES ('', ?)", (no,))
            self._pending_tocs.clear()
            for held in self._pending.values():
                held.clear()
        self._known_packs = self._read_packs()

    # ------------------------------------------------------------------ questions

    def known(self, kind: ChunkKind, ids: Sequence[bytes]) -> set[bytes]:
        """Those of ``ids`` that are stored."""
        with self._lock:
            pending = self._pending[kind]
            found = {one for one in ids if one in pending}
            if self._known_packs and len(found) < len(ids):
                rest = [one for one in ids if one not in found]
                found.update(row[0] for row, _ in self._rows(_WHICH, kind, rest))
        return found

    def find(self, kind: ChunkKind, ids: Iterable[bytes]) -> dict[bytes, Location]:
        """Where those of ``ids`` lie that are stored."""
        found: dict[bytes, Location] = {}
        rest = []
        with self._lock:
            for one in ids:
                held = self._pending[kind].get(one)
                if held is None:
                    rest.append(one)
                else:
                    found[one] = Location(held[0], *held[1][1:])
            if self._known_packs:
                for row, pack in self._rows(_WHERE, kind, rest):
                    found[row[0]] = Location(pack.name, *row[2:])
        return found

    def packs_of(self, kind: ChunkKind, ids: Iterable[bytes]) -> tuple[set[str], list[bytes]]:
        """Names of packs in which ``ids`` lie, and those ids that are nowhere."""
        names: set[str] = set()
        rest = []
        with self._lock:
            pending = self._pending[kind]
            for one in ids:
                held = pending.get(one)
                if held is None:
                    rest.append(one)
                else:
                    names.add(held[0])
            found = {}
            if self._known_packs and rest:
                found = {row[0]: pack.name for row, pack in self._rows(_WHICH, kind, rest)}
        names.update(found.values())
        return names, [one for one in rest if one not in found]

    def places(self, kind: ChunkKind, ids: Sequence[bytes]) -> Iterator[tuple[bytes, int, int]]:
        """(id, number of pack, position in it) of every copy of ``ids`` that is committed."""
        with self._lock:
            rows = list(self._rows(_WHICH, kind, ids))
        return ((row[0], row[1], row[2]) for row, _ in rows if row[1] not in self._spilled)

    def packs(self) -> list[PackRow]:
        """Every pack of the followed index objects."""
        return [row for no, row in sorted(self._known_packs.items()) if no not in self._spilled]

    def has_pack(self, name: str) -> bool:
        """Whether a followed index object names the pack."""
        no = self._numbers.get(name)
        return no is not None and no not in self._spilled

    def pack_size(self, name: str) -> int:
        """Bytes of a pack; 0 when it is not known."""
        toc = self._pending_tocs.get(name)
        if toc is not None:
            return toc.size
        row = self._known_packs.get(self._numbers.get(name, 0))
        return row.size if row else 0

    def _rows(
        self, select: str, kind: ChunkKind, ids: Sequence[bytes]
    ) -> Iterator[tuple[tuple[Any, ...], PackRow]]:
        """Rows of chunks with their packs; rows whose pack was forgotten lead nowhere."""
        for at in range(0, len(ids), _BATCH):
            part = ids[at : at + _BATCH]
            query = f"{select} ({','.join('?' * len(part))})"
            with self._errors():
                rows = self._db.execute(query, part).fetchall()
            for row in rows:
                pack = self._known_packs.get(row[1])
                if pack is not None and pack.kind is kind:
                    yield row, pack

    def _read_packs(self) -> dict[int, PackRow]:
        """Packs by number; 200 bytes each, 7 MiB for a full TiB."""
        with self._lock, self._errors():
            rows = self._db.execute("SELECT no, name, kind, size, count FROM packs").fetchall()
            named = "SELECT pack FROM members WHERE source != ''"
            committed = {no for (no,) in self._db.execute(named)}
        found = {row[0]: PackRow(row[0], row[1], ChunkKind(row[2]), *row[3:]) for row in rows}
        self._numbers = {row.name: no for no, row in found.items()}
        self._spilled = found.keys() - committed
        return found

    # ------------------------------------------------------------------ the database

    def _transaction(self) -> "_Transaction":
        return _Transaction(self._db, self._errors())

    def _errors(self) -> "_DatabaseErrors":
        return _DatabaseErrors(self._path)


class _DatabaseErrors:
    """Turns the database's errors into ours; a damaged file is removed, and made anew next time."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sqlite3.Error):
            if self._path is not None and not isinstance(error, sqlite3.OperationalError):
                with suppress(OSError):
                    os.unlink(self._path)
            raise LocalStateError(
                f"the local index {self._path or 'in a temporary file'}: {error}",
                next_step="make room if the disk is full, then run the same command again; the "
                "index is made anew from the repository",
            ) from error


class _Transaction:
    def __init__(self, db: sqlite3.Connection, errors: _DatabaseErrors) -> None:
        self._db, self._translate = db, errors

    def __enter__(self) -> sqlite3.Connection:
        with self._translate:
            self._db.execute("BEGIN IMMEDIATE")
        return self._db

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with self._translate:
            if error is None:
                self._db.execute("COMMIT")
            else:
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise error
