"""A full disk of a TiB and thirty points of it, over made-up chunk ids: time and memory of each.

No chunk is read, compressed, sealed or stored: the id of a chunk is a hash of its place and its
generation, and its pack is a hollow file of the right length. Everything else is what a replication
runs: the engine with its journal, the tree, its sealed nodes, tables, index objects, manifests and
commits, the local index, check and prune.

``python -m benchmarks.full STAGE FOLDER BYTES`` is one step in a process of its own; it prints
seconds and peak memory in bytes.
"""

import hashlib
import os
import random
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest.mock import patch

from benchmarks import repository as made
from benchmarks.backup_image import marked
from benchmarks.measure import Bar, Row, Sense, seconds
from benchmarks.repository import Ours
from benchmarks.scale import Scale
from connectors.local.object_folder import FolderObjectStore
from sealift.extents import Extent, Kind, coalesce
from sealift.objects import Bytes, ObjectInfo
from sealift.repository import packer, session
from sealift.repository.buffers import PageBuffers
from sealift.repository.check import Checker
from sealift.repository.prune import PruneOptions, Pruner
from sealift.repository.retention import Retention
from sealift.repository.session import CHUNK_BYTES, Repository
from sealift.repository.tree import FANOUT, ID_BYTES, NODE_BYTES, Tree, encode_node
from sealift.sealing.chunks import ChunkKind, ChunkSealer, SealedChunk
from sealift.sealing.compression import Codec
from sealift.sealing.keys import KeyRing, RootKey
from sealift.sealing.xaes import NONCE_BYTES, Data
from sealift.units import KiB, MiB, TiB, format_size

CHANGED_SHARE = 0.01
STRETCH = 16
"""Chunks that change together: a MiB. In the last point each changes alone."""
METADATA_DISK_BYTES = 16 * TiB
METADATA_CHANGES = 1000
METADATA_BYTES = 8 * MiB
MEMORY_BYTES = 500 * MiB
KEPT_SHARE = 3
"""A third of the points stays at the prune."""
_GROWTH = 4
"""The smaller disk is a quarter: what grows as the disk does has this ratio."""
_LABEL = struct.Struct("<QQ")
_LEAST_SEALED, _STEP_SEALED = 24 * KiB, 128
"""Sealed chunks of 24 to 56 KiB: as much as the data of a root file system takes on the average."""


def _id_of(label: Bytes) -> bytes:
    return hashlib.blake2b(label, digest_size=32).digest()


class Hollow(bytes):
    """A sealed chunk of zeroes: a part of a pack that is never put together."""


class HollowPack(bytes):
    """A pack of which there is only the length."""

    size: int

    def __len__(self) -> int:
        return self.size


_SEALED = [Hollow(_LEAST_SEALED + n * _STEP_SEALED) for n in range(256)]
_NONCE = Hollow(NONCE_BYTES)


class HollowSealer(ChunkSealer):
    """Names a chunk by the label that it begins with, and seals nodes only."""

    def __init__(self, ring: KeyRing, *, level: int = 1) -> None:
        super().__init__(ring, level=level)
        real = ring.content_id

        def content_id(data: Data) -> bytes:
            if len(data) != CHUNK_BYTES:
                return real(data)
            return _id_of(memoryview(data)[: _LABEL.size])

        self.content_id = content_id

    def seal_all(
        self, kind: ChunkKind, ids: Sequence[bytes], parts: Sequence[Data]
    ) -> list[SealedChunk]:
        """See ``ChunkSealer.seal_all``."""
        if kind is ChunkKind.NODE:
            return super().seal_all(kind, ids, parts)
        return [_hollow(kind, one) for one in ids]


def _hollow(kind: ChunkKind, one: bytes) -> SealedChunk:
    return SealedChunk(one, kind, 1, Codec.ZSTD, CHUNK_BYTES, _NONCE, _SEALED[one[0]])


class HollowBuffers(PageBuffers):
    """Puts hollow parts together to a hollow pack."""

    def joined(self, parts: Sequence[Bytes]) -> memoryview:
        """See ``PageBuffers.joined``."""
        if isinstance(parts[0], Hollow):
            made = HollowPack()
            made.size = sum(map(len, parts))
            return made  # type: ignore[return-value]
        return super().joined(parts)


class HollowStore(FolderObjectStore):
    """A folder in which hollow packs are files without blocks."""

    def put(
        self,
        name: str,
        data: Bytes,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
        lock_until: float | None = None,
    ) -> ObjectInfo:
        """See ``ObjectStore.put``."""
        if not isinstance(data, HollowPack):
            return super().put(
                name, data, if_absent=if_absent, if_match=if_match, lock_until=lock_until
            )
        path = Path(self.identity.removeprefix("folder:")) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.truncate(path, len(data))
        return ObjectInfo(name, len(data), "", None)


@dataclass(frozen=True, slots=True)
class LabelReader:
    """A disk without a zero in it: each chunk begins with its number and its generation.

    Attributes:
        size: bytes.
        generation: of the chunks that are read.
        dirty: chunks that changed since the last point; None = everything is new.
    """

    size: int
    generation: int
    dirty: Sequence[int] | None = None

    @property
    def identity(self) -> str:
        """See ``DiskReader.identity``."""
        return f"labels-{self.size}-{self.generation}"

    @property
    def incremental(self) -> bool:
        """See ``DiskReader.incremental``."""
        return self.dirty is not None

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        """See ``DiskReader.extents``."""
        if self.dirty is None:
            return iter([Extent(start, length, Kind.DATA)])
        return coalesce(marked(self.dirty, start, start + length))

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See ``DiskReader.read_into``; only the labels are written."""
        for at in range(0, len(buffer), CHUNK_BYTES):
            _LABEL.pack_into(buffer, at, (offset + at) // CHUNK_BYTES, self.generation + 1)

    def close(self) -> None:
        """See ``DiskReader.close``."""


# ---------------------------------------------------------------------- one step


def seed(ours: Ours, size: int) -> None:
    """The first point."""
    ours.save(LabelReader(size, 0))


def change(ours: Ours, size: int) -> None:
    """One more point, of one percent of the chunks, in stretches here and there."""
    _change(ours, size, STRETCH)


def scattered(ours: Ours, size: int) -> None:
    """One more point, of one percent of the chunks, one here and one there."""
    _change(ours, size, 1)


def _change(ours: Ours, size: int, stretch: int) -> None:
    generation = len(ours.repository.head.commit.points)
    stretches = size // CHUNK_BYTES // stretch
    chosen = random.Random(generation).sample(
        range(stretches), max(1, int(stretches * CHANGED_SHARE))
    )
    dirty = [first * stretch + n for first in sorted(chosen) for n in range(stretch)]
    ours.save(LabelReader(size, generation, dirty))


def listed(ours: Ours, size: int) -> None:
    """Every point with its manifest, as ``points list`` shows them."""
    refs = ours.repository.head.commit.points
    if any(ours.repository.manifest(ref).disks[0].tree.size != size for ref in refs):
        raise RuntimeError("a point of another disk")


def check(ours: Ours, size: int) -> None:
    """The structure of all points."""
    report = Checker(ours.repository).run()
    if report.points != len(ours.repository.head.commit.points) or report.damage:
        raise RuntimeError(f"{report.points} points, damage {report.damage[:3]}")


def prune(ours: Ours, size: int) -> None:
    """Two thirds of the points are dropped; the second run removes what they alone needed."""
    kept = Retention(last=len(ours.repository.head.commit.points) // KEPT_SHARE)
    pruner = Pruner(ours.repository, PruneOptions(0, True))
    dropped = pruner.run(kept)
    report = pruner.run(kept)
    if not dropped.dropped or not report.doomed or report.deleted != len(report.doomed):
        raise RuntimeError(f"{len(dropped.dropped)} points dropped, {report.deleted} deleted")


# ---------------------------------------------------------------------- metadata of a huge disk


class TrustingRepository(Repository):
    """Takes a first point as it is: of the disk's tree there are only the nodes of ``begin``."""

    def _packs_of(self, base: Tree | None, tree: Tree) -> set[str]:
        return super()._packs_of(base, tree) if base else set()


def begin(ours: Ours, size: int) -> None:
    """A point of a full disk, of whose tree there is what leads to the chunks that will change."""
    rng, repository = random.Random(3), ours.repository
    below: dict[int, bytes] = dict.fromkeys(_changing(size), bytes(ID_BYTES))
    chunks = count = size // CHUNK_BYTES
    for level in range(Tree(size, CHUNK_BYTES, bytes(ID_BYTES)).height):
        nodes: dict[int, bytearray] = {}
        for number, one in below.items():
            parent, slot = divmod(number, FANOUT)
            ids = nodes.setdefault(parent, bytearray(rng.randbytes(NODE_BYTES)))
            if level:
                ids[slot * ID_BYTES : (slot + 1) * ID_BYTES] = one
            del ids[max(0, count - parent * FANOUT) * ID_BYTES :]
        below = {
            n: repository.store_node(encode_node(level, ids.ljust(NODE_BYTES, b"\0")))
            for n, ids in nodes.items()
        }
        count = -(-count // FANOUT)
    if chunks < FANOUT or len(below) != 1:
        raise RuntimeError(f"a tree with {len(below)} roots")
    ours.publish(size, Tree(size, CHUNK_BYTES, below[0]))


def changed_little(ours: Ours, size: int) -> None:
    """The next point, of a thousand chunks, one here and one there; prints the bytes of it."""
    before, dirty = ours.stored, _changing(size)
    ours.save(LabelReader(size, 1, dirty))
    ids = (_id_of(_LABEL.pack(number, 2)) for number in dirty)
    print(ours.stored - before - sum(len(_SEALED[one[0]]) for one in ids))


def _changing(size: int) -> list[int]:
    return sorted(random.Random(2).sample(range(size // CHUNK_BYTES), METADATA_CHANGES))


STAGES: dict[str, Callable[[Ours, int], None]] = {
    "seed": seed,
    "sync": change,
    "scattered": scattered,
    "list": listed,
    "check": check,
    "prune": prune,
    "begin": begin,
    "little": changed_little,
}
_WORDS = {
    "seed": "the first point",
    "sync": "the largest of the points after it, of 1 % in stretches of a MiB",
    "scattered": "the last point, of 1 % in chunks of 64 KiB",
    "list": "a list of all points",
    "check": "a check of the structure of all points",
    "prune": "two prunes that drop two thirds of the points and delete what they alone needed",
}


@dataclass
class Spent:
    """What the processes of one step took at most.

    Attributes:
        seconds: of the longest.
        peak: bytes of memory of the largest.
    """

    seconds: float = 0.0
    peak: int = 0

    def __str__(self) -> str:
        return f"{format_size(self.peak)}, {self.seconds:.1f} s"


def measure(scale: Scale, folder: Path) -> Iterator[Row]:
    """Rows of memory for each step, of its growth, and one of the metadata of a huge disk."""
    small = _steps(folder / "small", scale.full_bytes // _GROWTH, scale.full_points)
    large = _steps(folder / "large", scale.full_bytes, scale.full_points)
    of = f"{scale.full_points + 1} points of a full disk of {format_size(scale.full_bytes)}"
    for name, spent in large.items():
        ratio = f"peak memory of {_WORDS[name]}, for {of}, by {format_size(MEMORY_BYTES)}"
        bar = Bar(f"scale-{name}-memory", ratio, Sense.AT_MOST, 1.0)
        yield Row(bar, spent.peak / MEMORY_BYTES, str(spent), format_size(MEMORY_BYTES))
    quarter = f"for a disk of {format_size(scale.full_bytes // _GROWTH)}"
    for name, spent in large.items():
        ratio = f"peak memory of {_WORDS[name]}, for {of}, by that {quarter}"
        bar = Bar(f"scale-{name}-growth", ratio, Sense.AT_MOST, _GROWTH)
        yield Row(bar, spent.peak / small[name].peak, str(spent), str(small[name]))
    yield _metadata(folder / "huge")


def _steps(folder: Path, size: int, points: int) -> dict[str, Spent]:
    folder.mkdir()
    spent: dict[str, Spent] = {}
    for name in ["seed", *["sync"] * (points - 1), "scattered", "list", "check", "prune"]:
        seconds_of, peak = _in_process(name, folder, size)
        most = spent.setdefault(name, Spent())
        most.seconds, most.peak = max(most.seconds, float(seconds_of)), max(most.peak, int(peak))
    shutil.rmtree(folder)
    return spent


def _metadata(folder: Path) -> Row:
    folder.mkdir()
    _in_process("begin", folder, METADATA_DISK_BYTES)
    written = int(_in_process("little", folder, METADATA_DISK_BYTES)[0])
    ratio = (
        f"bytes of a point with {METADATA_CHANGES} changed chunks of a full disk of "
        f"{format_size(METADATA_DISK_BYTES)} without the sealed chunks themselves: nodes, tables, "
        f"padding, index, manifest and commit, by {format_size(METADATA_BYTES)}"
    )
    bar = Bar("scale-metadata", ratio, Sense.AT_MOST, 1.0)
    return Row(bar, written / METADATA_BYTES, format_size(written), format_size(METADATA_BYTES))


def _in_process(name: str, folder: Path, size: int) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.full", name, str(folder), str(size)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()


@cache
def _ring() -> KeyRing:
    return KeyRing(RootKey(b"only for measuring, 32 bytes long"[:32]), b"i" * 16, 1)


def main() -> None:
    """One step; prints its seconds, and the peak of this process in bytes."""
    name, folder, size = sys.argv[1:]

    def work() -> None:
        store = HollowStore.open(Path(folder) / "sealift", create=True)
        with closing(Ours(Path(folder), Path(folder), _ring(), store)) as ours:
            STAGES[name](ours, int(size))

    with (
        patch.object(session, "ChunkSealer", HollowSealer),
        patch.object(packer, "PageBuffers", HollowBuffers),
        patch.object(packer, "LARGE_BYTES", 0),
        patch.object(made, "Repository", TrustingRepository if name == "begin" else Repository),
    ):
        spent = seconds(work)
    peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    if peak is None:
        raise RuntimeError("the kernel does not tell the peak")
    print(spent, int(peak[1]) * KiB)


if __name__ == "__main__":
    main()
