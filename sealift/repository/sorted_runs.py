"""Places of chunks in sorted files, for an index of any size in little memory.

A run is a file of records in the order of their ids, never changed once it is written. Ids look
random, so where a record lies is known from the first bits of its id, up to a few neighbours that
are read at once; and a bit for some more of those bits tells most ids that a run does not have.
Which runs there are is for the caller to remember; a file that he does not name is removed.
"""

import os
import secrets
import struct
import tempfile
from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from sealift.private import open_private
from sealift.repository.packs import ENTRY_BYTES, Toc

MERGED_AT_ONCE = 8
MOST_RUNS = 12
_RECORD = struct.Struct(">32sIIIIBII")  # as in the table of a pack, then number of it, position
_PACK = 6
_PLACE = struct.Struct(">II")
_PREFIX = struct.Struct(f">I{_RECORD.size - 4}x")
_PREFIX_BITS = 32
_NEIGHBOURS = 32
"""Records that share a bucket, at most: what is read for one, 1.8 KiB."""
_LEAST_BITS, _MOST_BITS = 8, 20
"""Of the number of a bucket. A merge sorts what has the same least bits at once."""
_FILTER_BITS = 8
"""More bits of an id that the filter knows: one id in ten to twenty is looked for in vain."""
_PROBE_COSTS = 4
"""Looking for a record in vain takes as long as merging so many."""


class Record(NamedTuple):
    """Where a chunk lies.

    Attributes:
        id: content id.
        offset: first byte in the pack.
        length: sealed bytes.
        plain: bytes of the plaintext.
        epoch: whose key sealed it.
        codec: how it was compressed.
        pack: number of the pack.
        position: of the chunk in it.
    """

    id: bytes
    offset: int
    length: int
    plain: int
    epoch: int
    codec: int
    pack: int
    position: int


@dataclass(slots=True)
class Run:
    """A file of records.

    Attributes:
        name: of the file, never used again; "" for one without a name.
        count: records in it.
        bits: of the number of a bucket.
        fd: descriptor of the file.
        starts: first record of each bucket, and the end.
        held: a bit for each value that the first bits of an id may have.
    """

    name: str
    count: int
    bits: int
    fd: int
    starts: "array[int]"
    held: bytearray

    def close(self) -> None:
        """Free the file; idempotent. A run that nobody holds any more frees it, too."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    __del__ = close


class DamagedRunError(Exception):
    """A file is not what was written."""


class SortedRuns:
    """Runs in a folder. Not thread-safe.

    Memory: 2 bytes for a record, at most 36 MiB for a run; twice as much and a 256th of the
    records while runs are merged.

    Args:
        folder: private, and this process's alone; None = in temporary files without names.
        name: what names of files begin with.
    """

    def __init__(self, folder: Path | None, name: str) -> None:
        self._folder, self._name = folder, name
        self._runs: list[Run] = []
        self._in_vain = 0

    @property
    def records(self) -> int:
        """In all runs, those of packs that are gone included."""
        return sum(run.count for run in self._runs)

    def known(self) -> list[tuple[str, int, int]]:
        """(file, records, bits) of each run: what ``load`` wants."""
        return [(run.name, run.count, run.bits) for run in self._runs]

    # ------------------------------------------------------------------ files

    def load(self, known: Sequence[tuple[str, int, int]]) -> None:
        """Open the runs that the caller remembers, and remove all other files.

        Raises:
            DamagedRunError: one is missing, or shorter or longer than it was.
        """
        self.close()
        self._remove_others({name for name, _, _ in known})
        for name, count, bits in known:
            self._runs.append(self._opened(name, count, bits))
        self._order()

    def _remove_others(self, names: set[str]) -> None:
        if self._folder is not None:
            for path in self._folder.glob(f"{self._name}.*.run"):
                if path.name not in names:
                    with suppress(FileNotFoundError):
                        path.unlink()

    def _opened(self, name: str, count: int, bits: int) -> Run:
        if self._folder is None:
            raise DamagedRunError("a temporary file does not outlive its process")
        try:
            fd = open_private(self._folder, name, os.O_RDONLY)
        except FileNotFoundError:
            raise DamagedRunError(f"{name} is missing") from None
        starts, held = array("I"), 1 << (bits + _FILTER_BITS - 3)
        size = count * _RECORD.size
        starts_bytes = ((1 << bits) + 1) * starts.itemsize
        if os.fstat(fd).st_size != size + starts_bytes + held:
            os.close(fd)
            raise DamagedRunError(f"{name} has another length")
        starts.frombytes(os.pread(fd, starts_bytes, size))
        return Run(
            name, count, bits, fd, starts, bytearray(os.pread(fd, held, size + starts_bytes))
        )

    @property
    def all(self) -> list[Run]:
        """As they are now, for ``back_to``."""
        return list(self._runs)

    def back_to(self, runs: Sequence[Run]) -> None:
        """Undo what was written or merged since, as none of it was dropped."""
        for run in self._runs:
            if all(run is not one for one in runs):
                self.drop([run])
        self._runs = list(runs)

    def close(self) -> None:
        """Close all files; idempotent."""
        for run in self._runs:
            run.close()
        self._runs = []

    def remove(self) -> None:
        """Forget all runs, and remove their files."""
        self.close()
        self._remove_others(set())

    def _file(self, name: str) -> IO[bytes]:
        if self._folder is None:
            return tempfile.TemporaryFile()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        return os.fdopen(open_private(self._folder, name, flags), "w+b")

    def _unlink(self, name: str) -> None:
        if self._folder is not None:
            with suppress(FileNotFoundError):
                (self._folder / name).unlink()

    def _order(self) -> None:
        self._runs.sort(key=lambda run: -run.count)

    # ------------------------------------------------------------------ writing

    def write(self, tables: Iterable[tuple[int, Toc]]) -> None:
        """A new run of the tables of packs, durable on return.

        Args:
            tables: (number of the pack, its table).

        Raises:
            OSError: the folder is full; the runs are as they were.
        """
        records = sorted(record for no, toc in tables for record in _records(no, toc))
        if records:
            self._runs.append(self._written(len(records), [records]))
            self._order()

    def due(self, live: int) -> bool:
        """Whether it is time to merge.

        Args:
            live: records of packs that are there.
        """
        return (
            len(self._runs) > MOST_RUNS
            or (len(self._runs) > 1 and self._in_vain * _PROBE_COSTS > self.records)
            or self.records > 2 * live
        )

    def merge(self, live: int, packs: Collection[int]) -> list[Run]:
        """Make one run of some: of all where looking for records in vain, or room, costs more.

        Args:
            live: records of packs that are there.
            packs: numbers of these packs; all other records are left out.

        Returns:
            Runs that are in the new one: for ``drop``, once the caller remembers the new one.

        Raises:
            OSError: the folder is full; the runs are as they were.
            DamagedRunError: see there.
        """
        few = self._in_vain * _PROBE_COSTS <= self.records <= 2 * live
        old = self._runs[-MERGED_AT_ONCE:] if few else list(self._runs)
        alive = packs if self.records > live else None
        total = sum(run.count for run in old)
        new = self._written(total, _merged(old, alive)) if total else None
        names = {run.name for run in old}
        self._runs = [run for run in self._runs if run.name not in names]
        if new is not None:
            self._runs.append(new)
        self._order()
        self._in_vain = 0
        return old

    def drop(self, runs: Iterable[Run]) -> None:
        """Close and remove files that ``merge`` replaced."""
        for run in runs:
            run.close()
            self._unlink(run.name)

    def _written(self, total: int, batches: Iterable[list[bytes]]) -> Run:
        bits = min(_MOST_BITS, max(_LEAST_BITS, (total // _NEIGHBOURS).bit_length()))
        name = f"{self._name}.{secrets.token_hex(8)}.run"
        run = Run(name, 0, bits, -1, array("I"), bytearray(1 << (bits + _FILTER_BITS - 3)))
        try:
            with self._file(name) as file:
                for batch in batches:
                    _append(file, run, batch)
                run.starts.extend([run.count] * ((1 << bits) + 1 - len(run.starts)))
                file.write(run.starts.tobytes())
                file.write(run.held)
                file.flush()
                if self._folder is not None:
                    os.fsync(file.fileno())
                run.fd = os.dup(file.fileno())
        except BaseException:
            self._unlink(name)
            raise
        return run

    # ------------------------------------------------------------------ reading

    def find(self, ids: Iterable[bytes], lives: Callable[[int], bool]) -> dict[bytes, Record]:
        """One record of each id that has any.

        Args:
            ids: what to look for.
            lives: whether a pack is there, by its number; records of others do not count.

        Raises:
            DamagedRunError: a file is shorter than it was.
        """
        found: dict[bytes, Record] = {}
        shifts = [(run, _filter_shift(run), _PREFIX_BITS - run.bits) for run in self._runs]
        size, unpack, read, missed = _RECORD.size, _RECORD.unpack_from, os.pread, 0
        for one in ids:
            prefix = int.from_bytes(one[:4], "big")
            for run, filter_shift, shift in shifts:
                bit = prefix >> filter_shift
                if not run.held[bit >> 3] >> (bit & 7) & 1:
                    continue
                bucket = prefix >> shift
                first = run.starts[bucket]
                wanted = (run.starts[bucket + 1] - first) * size
                data = read(run.fd, wanted, first * size)
                if len(data) != wanted:
                    raise _cut_short(run)
                at = data.find(one)
                while at >= 0 and (at % size or not lives(unpack(data, at)[_PACK])):
                    at = data.find(one, at + 1)
                if at >= 0:
                    found[one] = Record._make(unpack(data, at))
                    break
                missed += 1
        self._in_vain += missed
        return found

    def every(self, one: bytes) -> Iterator[Record]:
        """Every record of an id; raises as ``find`` does."""
        prefix = int.from_bytes(one[:4], "big")
        for run in self._runs:
            bit = prefix >> _filter_shift(run)
            if not run.held[bit >> 3] >> (bit & 7) & 1:
                continue
            bucket = prefix >> (_PREFIX_BITS - run.bits)
            data = _read(run, run.starts[bucket], run.starts[bucket + 1])
            at = data.find(one)
            self._in_vain += at < 0
            while at >= 0:
                if at % _RECORD.size == 0:
                    yield Record._make(_RECORD.unpack_from(data, at))
                at = data.find(one, at + 1)


def _filter_shift(run: Run) -> int:
    return _PREFIX_BITS - _FILTER_BITS - run.bits


def _records(no: int, toc: Toc) -> Iterator[bytes]:
    body, pack = toc.body, _PLACE.pack
    for position in range(len(toc)):
        at = position * ENTRY_BYTES
        yield body[at : at + ENTRY_BYTES] + pack(no, position)


def _append(file: IO[bytes], run: Run, batch: list[bytes]) -> None:
    """Write sorted records that come after all others, and enter them into both tables."""
    if not batch:
        return
    shift = _PREFIX_BITS - run.bits
    last = int.from_bytes(batch[-1][:4], "big") >> shift
    for bucket in range(len(run.starts), last + 1):
        key = (bucket << shift).to_bytes(4, "big")
        run.starts.append(run.count + bisect_left(batch, key))
    data = b"".join(batch)
    held, shift = run.held, shift - _FILTER_BITS
    for (prefix,) in _PREFIX.iter_unpack(data):
        bit = prefix >> shift
        held[bit >> 3] |= 1 << (bit & 7)
    file.write(data)
    run.count += len(batch)


def _merged(runs: Sequence[Run], alive: Collection[int] | None) -> Iterator[list[bytes]]:
    """Records of all in order, in batches of what has the same first bits."""
    size = _RECORD.size
    for part in range(1 << _LEAST_BITS):
        batch: list[bytes] = []
        for run in runs:
            more = run.bits - _LEAST_BITS
            data = _read(run, run.starts[part << more], run.starts[(part + 1) << more])
            batch += [data[at : at + size] for at in range(0, len(data), size)]
        if alive is not None:
            batch = [r for r in batch if int.from_bytes(r[49:53], "big") in alive]
        batch.sort()  # of sorted stretches, which it finds and merges
        yield batch


def _read(run: Run, first: int, after: int) -> bytes:
    data = os.pread(run.fd, (after - first) * _RECORD.size, first * _RECORD.size)
    if len(data) != (after - first) * _RECORD.size:
        raise _cut_short(run)
    return data


def _cut_short(run: Run) -> DamagedRunError:
    return DamagedRunError(f"{run.name} is cut short")
