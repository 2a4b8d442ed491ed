"""The table of docs/adr/0018: what the size of a chunk costs.

``python -m benchmarks.chunk_size IMAGE``.

One seed of an image into a folder for each size, then a point after scattered writes of 8 KiB, as
a database makes them, and one after a bulk write. Change lists have a granule of 64 KiB, as QEMU's.
"""

import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from connectors.local.object_folder import FolderObjectStore
from connectors.local.raw_reader import RawFileReader
from sealift.clock import SystemClock
from sealift.extents import Extent, Kind, coalesce
from sealift.repository.session import Repository, RepositoryOptions
from sealift.repository.tree import Tree
from sealift.repository.writer import RepositoryWriter
from sealift.sealing.keys import KeyRing, RootKey
from sealift.store import FileStateStore
from sealift.sync import SyncContext, sync
from sealift.units import KiB, MiB, TiB

GRANULE = 64 * KiB
SIZES = [64 * KiB, 128 * KiB, 256 * KiB, MiB, 4 * MiB]
SCATTERED_WRITES, SCATTERED_BYTES, BULK_BYTES = 1000, 8 * KiB, 64 * MiB


class Written:
    """An image with bytes written over it, and the list of granules that they touch."""

    def __init__(self, image: RawFileReader, writes: dict[int, bytes]) -> None:
        self._image, self._writes = image, writes
        self.size, self.identity, self.incremental = image.size, "written", True

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        """See ``DiskReader.extents``."""
        dirty = {
            granule
            for at, data in self._writes.items()
            for granule in range(at // GRANULE, (at + len(data) - 1) // GRANULE + 1)
        }
        return coalesce(
            Extent(at, min(GRANULE, start + length - at), kind)
            for at in range(start, start + length, GRANULE)
            for kind in [Kind.DATA if at // GRANULE in dirty else Kind.CLEAN]
        )

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See ``DiskReader.read_into``."""
        self._image.read_into(offset, buffer)
        for at, data in self._writes.items():
            low, high = max(at, offset), min(at + len(data), offset + len(buffer))
            if low < high:
                buffer[low - offset : high - offset] = data[low - at : high - at]

    def close(self) -> None:
        """See ``DiskReader.close``."""


@dataclass(frozen=True, slots=True)
class Row:
    """One size: bytes and seconds; ``metadata`` is of a TiB of data."""

    chunk: int
    seconds: float
    cpu: float
    stored: int
    scattered: int
    bulk: int
    metadata: int


def measured(image: Path, chunk: int, folder: Path) -> Row:
    """One seed and two increments with chunks of one size."""
    folder.mkdir()
    ring = KeyRing(RootKey(b"k" * 32), b"i" * 16, 1)
    store = FolderObjectStore.open(folder / "store", create=True)
    state = FileStateStore(folder / "state")
    options = RepositoryOptions(chunk_bytes=chunk)
    repository = Repository.init(store, ring, state, SystemClock(), None, options)
    reader = RawFileReader(image)
    wall, cpu = time.perf_counter(), time.process_time()
    tree = _stored(repository, reader, None)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    seed = repository.packer.stored_bytes
    rng = random.Random(1)
    places = [rng.randrange(0, reader.size // SCATTERED_BYTES) for _ in range(SCATTERED_WRITES)]
    half = SCATTERED_BYTES // 2
    scattered = {at * SCATTERED_BYTES: rng.randbytes(half) + bytes(half) for at in places}
    _stored(repository, Written(reader, scattered), tree)
    after_scattered = repository.packer.stored_bytes
    middle = reader.size // 2 // MiB * MiB
    _stored(repository, Written(reader, {middle: rng.randbytes(BULK_BYTES)}), tree)
    return Row(
        chunk,
        wall,
        cpu,
        seed,
        after_scattered - seed,
        repository.packer.stored_bytes - after_scattered,
        _metadata(chunk),
    )


def _metadata(chunk: int) -> int:
    """Nodes, tables and index of a full TiB: 32 bytes of id in each of the three, and the rest."""
    chunks = TiB // chunk
    node = chunks * 32 * 65 // 64 + chunks // 64 * 49
    return node + 2 * chunks * 49


def _stored(repository: Repository, reader: RawFileReader | Written, base: Tree | None) -> Tree:
    done: list[Tree] = []
    writer = RepositoryWriter(
        repository,
        identity=f"disk-{id(reader)}",
        size=reader.size,
        base=base,
        finished=done.append,
    )
    sync(reader, writer, SyncContext(SystemClock()))
    return done[0]


def main() -> None:
    """Print the table."""
    image = Path(sys.argv[1])
    print(
        "| Chunk | Seed | CPU | Stored | 1,000 writes of 8 KiB | 64 MiB written | "
        "Metadata of a TiB |"
    )
    print("|---|---|---|---|---|---|---|")
    for chunk in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            row = measured(image, chunk, Path(folder) / "repository")
        print(
            f"| {chunk // KiB} KiB | {row.seconds:.2f} s | {row.cpu:.2f} s | "
            f"{row.stored / MiB:.0f} MiB | {row.scattered / MiB:.1f} MiB | "
            f"{row.bulk / MiB:.1f} MiB | {row.metadata / MiB:.0f} MiB |"
        )


if __name__ == "__main__":
    main()
