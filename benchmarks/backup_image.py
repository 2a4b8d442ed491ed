"""The image that backup tools are compared on, and what changes in it.

An ext4 file system with programs, libraries and texts of this machine, random bytes and text that
compresses well: a root file system with some data on it.
"""

import os
import random
import shutil
import subprocess
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from connectors.local import RawFileReader
from sealift.extents import Extent, Kind, coalesce
from sealift.units import KiB, MiB

GRANULE = 64 * KiB
_ROOTS = (Path("/usr/bin"), Path("/usr/lib"), Path("/usr/share"))
_WORDS = [f"word{n:04d}" for n in range(2000)]


def make_image(path: Path, size: int, data: int) -> Path:
    """An image of ``size`` bytes with about ``data`` bytes in files, two thirds of them real."""
    staging = path.with_suffix(".files")
    (staging / "root").mkdir(parents=True)
    _copy_real(staging / "root", data * 2 // 3)
    rng = random.Random(1)
    _fill(staging / "random.bin", data // 6, lambda: rng.randbytes(MiB))
    _fill(staging / "text.txt", data // 6, lambda: text(rng, MiB))
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-d", str(staging), str(path), f"{size // KiB}k"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(staging)
    with path.open("rb") as file:
        os.fsync(file.fileno())  # or whoever comes first waits for what is still to be written
    return path


def text(rng: random.Random, size: int) -> bytes:
    """Words in random order, one by one."""
    return " ".join(rng.choices(_WORDS, k=size // 9 + 1)).encode()[:size]


def scatter_changes(path: Path, share: float, rng: random.Random) -> frozenset[int]:
    """Write over ``share`` of the image in granules here and there; half of it compresses.

    Only where there is data, as a guest that writes over what it has: in a hole nothing is saved by
    knowing the granule, since a peer's large chunk around it is nearly all zeroes.

    Returns:
        Numbers of the granules: what a dirty bitmap would say.
    """
    wanted = max(1, int(path.stat().st_size // GRANULE * share))
    chosen = frozenset(rng.sample(granules_with_data(path), wanted))
    with path.open("r+b") as file:
        for number, granule in enumerate(sorted(chosen)):
            file.seek(granule * GRANULE)
            file.write(text(rng, GRANULE) if number % 2 else rng.randbytes(GRANULE))
        file.flush()
        os.fsync(file.fileno())
    return chosen


def granules_with_data(path: Path) -> list[int]:
    """Ascending; those of which the file system says that they are no hole."""
    with closing(RawFileReader(path)) as image:
        data = [e for e in image.extents(0, image.size) if e.kind is Kind.DATA]
    return sorted({n for e in data for n in range(e.start // GRANULE, -(-e.end // GRANULE))})


class Tracked(RawFileReader):
    """The image as a hypervisor with a dirty bitmap shows it."""

    incremental = True

    def __init__(self, path: Path, dirty: frozenset[int]) -> None:
        super().__init__(path)
        self._dirty = sorted(dirty)

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        """See ``DiskReader.extents``."""
        return coalesce(marked(self._dirty, start, start + length))


def marked(dirty: Sequence[int], start: int, end: int) -> Iterator[Extent]:
    """Granules of an ascending list as DATA, what is between them as CLEAN; not joined."""
    first, after = (bisect_left(dirty, at // GRANULE) for at in (start, end - 1))
    at = start
    for granule in dirty[first : after + 1]:
        low = max(at, granule * GRANULE)
        high = min(end, (granule + 1) * GRANULE)
        if at < min(low, end):
            yield Extent(at, min(low, end) - at, Kind.CLEAN)
        if low < high:
            yield Extent(low, high - low, Kind.DATA)
            at = high
    if at < end:
        yield Extent(at, end - at, Kind.CLEAN)


def _copy_real(where: Path, wanted: int) -> None:
    """Files of each root in order of their names, each root's share of the bytes."""
    for root in _ROOTS:
        left = wanted // len(_ROOTS)
        for source in sorted(p for p in root.rglob("*") if p.is_file() and not p.is_symlink()):
            left -= source.stat().st_size
            if left < 0:
                break
            target = where / source.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def _fill(path: Path, size: int, part: Callable[[], bytes]) -> None:
    with path.open("wb") as file:
        for _ in range(max(1, size // MiB)):
            file.write(part())
