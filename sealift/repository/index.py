"""Which chunk lies where: what the index objects of the head say, in files that can be lost.

The files are made of sealed index objects and nothing else; a small database knows which ones,
which packs are in them, and which sorted runs hold the places of their chunks. Without it, or when
anything is damaged, the index objects are read again. What was stored since the last commit is
kept in memory, up to a bound, and then in a run too.
"""

import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from sealift.errors import LocalStateError
from sealift.private import make_private_folder, open_private
from sealift.repository.commits import IndexRef
from sealift.repository.packs import MAX_ENTRIES, Toc
from sealift.repository.sorted_runs import DamagedRunError, Record, SortedRuns
from sealift.sealing.chunks import ChunkKind

PENDING_ENTRIES = 100_000
"""Chunks that are kept in memory, some 40 MiB; more go to a run."""
_VERSION = 2

_SCHEMA = """
CREATE TABLE sources (name TEXT PRIMARY KEY, digest BLOB NOT NULL);
CREATE TABLE packs (no INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE NOT NULL,
    kind INTEGER NOT NULL, size INTEGER NOT NULL, count INTEGER NOT NULL);
CREATE TABLE members (source TEXT NOT NULL, pack INTEGER NOT NULL, PRIMARY KEY (source, pack))
    WITHOUT ROWID;
CREATE INDEX packs_of ON members (pack);
CREATE TABLE runs (name TEXT PRIMARY KEY, count INTEGER NOT NULL, bits INTEGER NOT NULL);
"""
_NO_PACKS = "DELETE FROM packs WHERE no NOT IN (SELECT pack FROM members)"


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

    Memory: ``PENDING_ENTRIES``, 200 bytes a pack, and what ``SortedRuns`` take.

    Args:
        folder: where the files live; None = in temporary ones that go with the process.
        name: of the files: one for each repository.
    """

    def __init__(self, folder: Path | None, name: str) -> None:
        self._lock = threading.Lock()
        self._path: Path | None = None
        self._guard = -1
        if folder is not None:
            self._claim(folder, name)
        self._runs = SortedRuns(folder if self._path else None, name)
        self._db = self._opened()
        self._pending: dict[ChunkKind, dict[bytes, int]] = {kind: {} for kind in ChunkKind}
        self._pending_tocs: dict[int, Toc] = {}
        self._pending_numbers: dict[str, int] = {}
        self._last_pending = 0
        self._read_packs()

    # ------------------------------------------------------------------ the files

    def _claim(self, folder: Path, name: str) -> None:
        """Use the files, unless another process does: it would see packs come and go."""
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
        except (sqlite3.DatabaseError, DamagedRunError):
            self._remove()
            return self._connected()

    def _connected(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path or "", check_same_thread=False, isolation_level=None)
        db.execute(f"PRAGMA journal_mode = {'WAL' if self._path else 'MEMORY'}")
        db.execute("PRAGMA synchronous = NORMAL")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version not in (0, _VERSION):
            raise sqlite3.DatabaseError("of another version")
        if version == 0:
            db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
        db.execute(_NO_PACKS)
        self._runs.load(db.execute("SELECT name, count, bits FROM runs").fetchall())
        return db

    def _remove(self) -> None:
        self._runs.remove()
        if self._path is not None:
            for suffix in ("", "-wal", "-shm"):
                with suppress(FileNotFoundError):
                    os.unlink(f"{self._path}{suffix}")
            os.close(open_private(self._path.parent, self._path.name, os.O_RDWR | os.O_CREAT))

    def close(self) -> None:
        """Free the files; idempotent."""
        self._db.close()
        self._runs.close()
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
        gone = [n for n, digest in known.items() if n not in wanted or wanted[n].digest != digest]
        if gone:
            self._forget_sources(gone)
        learned: list[tuple[IndexRef, list[Toc]]] = []
        for name, ref in wanted.items():
            if known.get(name) != ref.digest:
                learned.append((ref, fetch(ref)))
            if sum(len(toc) for _, tocs in learned for toc in tocs) > PENDING_ENTRIES:
                self._learn_sources(learned)
                learned = []
        self._learn_sources(learned)
        self._forget_pending(pending)

    def _forget_sources(self, names: Sequence[str]) -> None:
        with self._changing() as db:
            for name in names:
                db.execute("DELETE FROM members WHERE source = ?", (name,))
                db.execute("DELETE FROM sources WHERE name = ?", (name,))
            # records of chunks stay, they lead to no pack; numbers of packs never come again
            db.execute(_NO_PACKS)

    def _learn_sources(self, learned: Sequence[tuple[IndexRef, list[Toc]]]) -> None:
        if not learned:
            return
        with self._changing() as db:
            fresh: list[tuple[int, Toc]] = []
            for ref, tocs in learned:
                for toc in tocs:
                    no = self._number(db, toc, fresh)
                    db.execute("INSERT OR IGNORE INTO members VALUES (?, ?)", (ref.name, no))
                db.execute("INSERT OR REPLACE INTO sources VALUES (?, ?)", (ref.name, ref.digest))
            self._runs.write(fresh)
        for _, tocs in learned:
            for toc in tocs:
                self._settle(toc.pack)  # what is in a run need not be kept in memory

    def _forget_pending(self, but: Collection[str]) -> None:
        """What is pending no more was committed, and is in an index object, or is gone."""
        for name in [name for name in self._pending_numbers if name not in but]:
            self._settle(name)
        with self._lock, self._errors():
            query = "SELECT no, name FROM packs, members WHERE pack = no AND source = ''"
            spilled = [no for no, name in self._db.execute(query).fetchall() if name not in but]
        if spilled:
            with self._changing() as db:
                drop = "DELETE FROM members WHERE source = '' AND pack = ?"
                db.executemany(drop, [(no,) for no in spilled])
                db.execute(_NO_PACKS)

    def _number(self, db: sqlite3.Connection, toc: Toc, fresh: list[tuple[int, Toc]]) -> int:
        """The number of a pack; of a new one the table is ``fresh``."""
        row = db.execute("SELECT no FROM packs WHERE name = ?", (toc.pack,)).fetchone()
        if row is not None:
            return int(row[0])
        values = (toc.pack, toc.kind.value, toc.size, len(toc))
        query = "INSERT INTO packs (name, kind, size, count) VALUES (?, ?, ?, ?)"
        no = int(db.execute(query, values).lastrowid or 0)
        fresh.append((no, toc))
        return no

    def _settle(self, name: str) -> None:
        """Keep a pack in memory no more."""
        with self._lock:
            number = self._pending_numbers.pop(name, None)
            if number is not None:
                toc = self._pending_tocs.pop(number)
                held = self._pending[toc.kind]
                for one in toc.ids():
                    if held.get(one, -1) // MAX_ENTRIES == number:
                        del held[one]

    # ------------------------------------------------------------------ pending packs

    def add(self, toc: Toc) -> None:
        """Know a pack that no commit names yet."""
        with self._lock:
            self._last_pending += 1
            self._pending_tocs[self._last_pending] = toc
            self._pending_numbers[toc.pack] = self._last_pending
            first = self._last_pending * MAX_ENTRIES
            places = range(first, first + len(toc))
            self._pending[toc.kind].update(zip(toc.ids(), places, strict=True))
            full = sum(len(held) for held in self._pending.values()) > PENDING_ENTRIES
        if full:
            self._spill()

    def _spill(self) -> None:
        with self._changing() as db:
            fresh: list[tuple[int, Toc]] = []
            names = list(self._pending_numbers)
            for toc in self._pending_tocs.values():
                no = self._number(db, toc, fresh)
                db.execute("INSERT OR IGNORE INTO members VALUES ('', ?)", (no,))
            self._runs.write(fresh)
        for name in names:
            self._settle(name)

    # ------------------------------------------------------------------ questions

    def known(self, kind: ChunkKind, ids: Sequence[bytes]) -> set[bytes]:
        """Those of ``ids`` that are stored."""
        with self._lock:
            pending = self._pending[kind]
            found = {one for one in ids if one in pending}
            found.update(self._records(kind, [one for one in ids if one not in found]))
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
                    toc = self._pending_tocs[held // MAX_ENTRIES]
                    found[one] = Location(toc.pack, *toc.entry(held % MAX_ENTRIES)[1:])
            for one, row in self._records(kind, rest).items():
                found[one] = Location(self._known_packs[row.pack].name, *row[1:6])
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
                    names.add(self._pending_tocs[held // MAX_ENTRIES].pack)
            found = self._records(kind, rest)
            names.update({self._known_packs[no].name for no in {r.pack for r in found.values()}})
        return names, [one for one in rest if one not in found]

    def places(self, kind: ChunkKind, ids: Sequence[bytes]) -> Iterator[tuple[bytes, int, int]]:
        """(id, number of pack, position in it) of every copy of ``ids`` that is committed."""
        lives = self._by_kind[kind]
        with self._lock, self._errors():
            rows = [row for one in ids for row in self._runs.every(one) if row.pack in lives]
            self._tidy()
        return ((row.id, row.pack, row.position) for row in rows if row.pack not in self._spilled)

    def _records(self, kind: ChunkKind, ids: Sequence[bytes]) -> dict[bytes, Record]:
        """Those of packs of this kind that are there; under the lock."""
        lives = self._by_kind[kind]
        if not ids or not lives:
            return {}
        with self._errors():
            found = self._runs.find(ids, lives.__contains__)
            self._tidy()
        return found

    def packs(self) -> list[PackRow]:
        """Every pack of the followed index objects."""
        return [row for no, row in sorted(self._known_packs.items()) if no not in self._spilled]

    def has_pack(self, name: str) -> bool:
        """Whether a followed index object names the pack."""
        no = self._numbers.get(name)
        return no is not None and no not in self._spilled

    def pack_size(self, name: str) -> int:
        """Bytes of a pack; 0 when it is not known."""
        number = self._pending_numbers.get(name)
        toc = self._pending_tocs.get(number) if number is not None else None
        if toc is not None:
            return toc.size
        row = self._known_packs.get(self._numbers.get(name, 0))
        return row.size if row else 0

    def _read_packs(self) -> None:
        """Packs by number; 200 bytes each, 7 MiB for a full TiB."""
        rows = self._db.execute("SELECT no, name, kind, size, count FROM packs").fetchall()
        named = self._db.execute("SELECT pack FROM members WHERE source != ''")
        committed = {no for (no,) in named}
        found = {row[0]: PackRow(row[0], row[1], ChunkKind(row[2]), *row[3:]) for row in rows}
        self._numbers = {row.name: no for no, row in found.items()}
        self._spilled = found.keys() - committed
        self._by_kind = {
            kind: frozenset(no for no, row in found.items() if row.kind is kind)
            for kind in ChunkKind
        }
        self._live = sum(row.chunks for row in found.values())
        self._known_packs = found

    def _tidy(self) -> None:
        """Make few runs of many where that is due; under the lock."""
        if self._runs.due(self._live):
            with self._restoring(), self._transaction() as db:
                merged = self._runs.merge(self._live, self._known_packs.keys())
                self._note_runs(db)
            self._runs.drop(merged)

    # ------------------------------------------------------------------ the database

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """Packs and runs change together, and nobody sees the one without the other."""
        with self._lock:
            with self._restoring(), self._transaction() as db:
                yield db
                self._note_runs(db)
            with self._errors():
                self._read_packs()
            self._tidy()

    @contextmanager
    def _restoring(self) -> Iterator[None]:
        """After a failure numbers of packs are given anew: no run may know the old ones."""
        before = self._runs.all
        try:
            yield
        except BaseException:
            self._runs.back_to(before)
            raise

    def _note_runs(self, db: sqlite3.Connection) -> None:
        db.execute("DELETE FROM runs")
        db.executemany("INSERT INTO runs VALUES (?, ?, ?)", self._runs.known())

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
        if isinstance(error, sqlite3.Error | DamagedRunError | OSError):
            if self._path is not None and not isinstance(error, sqlite3.OperationalError | OSError):
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
                if isinstance(error, sqlite3.Error | DamagedRunError | OSError):
                    raise error
