"""Opening a mounted point, and its first MiB over NBD: the same for a small and a large disk.

Each disk has the same data; the large one is sparse besides. Every time is of a process's first
look: repository and index are opened anew, the index from its file as ``sealift mount`` finds it.
"""

import os
import random
import statistics
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

from benchmarks.measure import Bar, Row, Sense, seconds
from benchmarks.repository import Ours
from benchmarks.scale import Scale
from connectors.local.raw_reader import RawFileReader
from connectors.nbd.address import UnixAddress
from connectors.nbd.disk import NbdReader
from connectors.nbd.server import NbdServer
from sealift.sealing.keys import KeyRing, RootKey
from sealift.units import MiB, format_size

OPEN_SECONDS = 1.0
_SMALL_BYTES = 64 * MiB
_DATA_BYTES = 32 * MiB


def measure(scale: Scale, folder: Path) -> Iterator[Row]:
    """Rows ``mount-open`` and ``mount-open-size``."""
    small, large = (
        _Kept(folder / str(size), size) for size in (_SMALL_BYTES, max(scale.large_bytes, MiB))
    )
    small_times, large_times = [], []
    for _ in range(max(3, scale.pairs)):
        small_times.append(small.opened())
        large_times.append(large.opened())
    slow, fast = statistics.median(large_times), statistics.median(small_times)
    of = f"{format_size(large.size)} sparse, the interpreter's start left out"
    bar = Bar("mount-open", f"open and read the first MiB of {of}, by 1 s", Sense.AT_MOST, 1.0)
    yield Row(bar, slow / OPEN_SECONDS, f"{slow:.3f} s", f"{OPEN_SECONDS:.2f} s")
    words = f"the same by that of {format_size(small.size)} with the same data"
    bar = Bar("mount-open-size", words, Sense.AT_MOST, 2.0)
    yield Row(bar, slow / fast, f"{slow:.3f} s", f"{fast:.3f} s")


class _Kept:
    """A repository with one point of a disk."""

    def __init__(self, folder: Path, size: int) -> None:
        folder.mkdir()
        self.size, self._folder = size, folder
        self._image, self._root, self._id = folder / "disk.raw", os.urandom(32), os.urandom(16)
        _make(self._image, size)
        with closing(self._ours()) as ours, closing(RawFileReader(self._image)) as reader:
            ours.save(reader)

    def _ours(self) -> Ours:
        return Ours(self._image, self._folder, KeyRing(RootKey(self._root), self._id, 1))

    def opened(self) -> float:
        """Seconds from nothing to the first MiB in a client's hands."""
        return seconds(self._open)

    def _open(self) -> None:
        address = UnixAddress(self._folder / "s")
        with ExitStack() as stack:
            ours = stack.enter_context(closing(self._ours()))
            reader = stack.enter_context(closing(ours.reader()))
            stack.enter_context(NbdServer({"vda": reader}, address))
            client = NbdReader(address, identity="bench", export="vda", connections=1)
            stack.enter_context(closing(client))
            found = bytearray(MiB)
            client.read_into(0, memoryview(found))
        with self._image.open("rb") as file:
            if file.read(MiB) != found:
                raise RuntimeError("the mounted disk reads as something else")


def _make(path: Path, size: int) -> None:
    """Data at the beginning, then a hole."""
    rng = random.Random(1)
    with path.open("wb") as file:
        for _ in range(min(_DATA_BYTES, size // 2) // MiB):
            file.write(rng.randbytes(MiB))
        file.truncate(size)
