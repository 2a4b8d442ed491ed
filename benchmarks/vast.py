"""A repository of a sparse disk of a TiB: time and peak memory of each command, in its own process.

``python -m benchmarks.vast STAGE FOLDER`` is that process; it prints seconds and bytes.
"""

import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from benchmarks.backup_image import GRANULE, Tracked, text
from benchmarks.measure import Bar, Row, Sense, seconds
from benchmarks.repository import Ours
from benchmarks.scale import Scale
from connectors.local import RawFileReader
from connectors.nbd import NbdReader, UnixAddress
from connectors.nbd.server import NbdServer
from sealift.repository.check import Checker
from sealift.repository.prune import PruneOptions, Pruner
from sealift.repository.retention import Retention
from sealift.sealing.keys import KeyRing, RootKey
from sealift.units import KiB, MiB, format_size

CHANGED = 1000
MEMORY_BYTES = 500 * MiB
OPEN_SECONDS = 1.0
_RING = KeyRing(RootKey(b"only for measuring, 32 bytes long"[:32]), b"i" * 16, 1)


def seed(folder: Path) -> None:
    """A new repository and its first point."""
    with closing(_ours(folder)) as ours, closing(RawFileReader(_disk(folder))) as reader:
        ours.save(reader)


def change(folder: Path) -> None:
    """A second point, of scattered changes that the hypervisor names."""
    dirty = frozenset(_changed(_disk(folder)))
    with closing(_ours(folder)) as ours, closing(Tracked(_disk(folder), dirty)) as reader:
        ours.save(reader)


def check(folder: Path) -> None:
    """The structure of both points."""
    with closing(_ours(folder)) as ours:
        report = Checker(ours.repository).run()
    if report.points != 2 or report.damage:
        raise RuntimeError(f"{report.points} points, damage {report.damage}")


def prune(folder: Path) -> None:
    """The first point is dropped."""
    with closing(_ours(folder)) as ours:
        report = Pruner(ours.repository, PruneOptions(0, True)).run(Retention(last=1))
    if len(report.dropped) != 1:
        raise RuntimeError(f"{len(report.dropped)} points were dropped")


def opened(folder: Path) -> None:
    """The point opened as a mount does it, and its first MiB read over NBD."""
    where = UnixAddress(folder / "nbd")
    with (
        closing(_ours(folder)) as ours,
        closing(ours.reader()) as point,
        NbdServer({"": point}, where),
        closing(NbdReader(where, identity="bench", connections=1)) as client,
    ):
        buffer = bytearray(MiB)
        client.read_into(0, memoryview(buffer))
    if buffer[:GRANULE] == bytes(GRANULE):
        raise RuntimeError("there is data at the beginning of the disk, and zeroes came")


STAGES: dict[str, Callable[[Path], None]] = {
    "seed": seed,
    "change": change,
    "check": check,
    "prune": prune,
    "open": opened,
}
_WORDS = {
    "seed": "making a repository of it with a first point",
    "change": f"the next point, of {CHANGED} granules that a bitmap names",
    "check": "a check of the structure of both",
    "prune": "a prune that drops the first",
    "open": "opening the point as a mount does and reading its first MiB over NBD",
}


def measure(scale: Scale, folder: Path) -> Iterator[Row]:
    """A row of memory for each command, and one for the time that opening takes."""
    _make(_disk(folder), scale.vast_bytes, scale.vast_data_bytes)
    of = f"a sparse disk of {format_size(scale.vast_bytes)}"
    with_data = f"{of} with {format_size(scale.vast_data_bytes)} scattered over it"
    spent = 0.0
    for name in STAGES:
        if name == "change":
            _write(_disk(folder), _changed(_disk(folder)))
        spent, peak = _in_process(name, folder)
        ratio = f"peak memory of {_WORDS[name]}, for {with_data}, by {format_size(MEMORY_BYTES)}"
        bar = Bar(f"vast-{name}", ratio, Sense.AT_MOST, 1.0)
        ours = f"{format_size(peak)}, {spent:.2f} s"
        yield Row(bar, peak / MEMORY_BYTES, ours, format_size(MEMORY_BYTES))
    ratio = f"time of {_WORDS['open']}, of {of}, the interpreter's start left out, by 1 s"
    bar = Bar("vast-open-time", ratio, Sense.AT_MOST, 1.0)
    yield Row(bar, spent / OPEN_SECONDS, f"{spent:.2f} s", f"{OPEN_SECONDS:.2f} s")


def _in_process(name: str, folder: Path) -> tuple[float, int]:
    command = [sys.executable, "-m", "benchmarks.vast", name, str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    spent, peak = done.stdout.split()
    return float(spent), int(peak)


def _ours(folder: Path) -> Ours:
    return Ours(_disk(folder), folder, _RING)


def _disk(folder: Path) -> Path:
    return folder / "vast.raw"


def _make(path: Path, size: int, data: int) -> None:
    """Granules with data of their own, here and there; the first one among them."""
    path.touch()
    os.truncate(path, size)
    _write(path, sorted({0, *_scattered(size, data // GRANULE, 1)}))


def _changed(disk: Path) -> list[int]:
    size = disk.stat().st_size
    return _scattered(size, min(CHANGED, size // GRANULE // 2), 2)


def _write(disk: Path, granules: Sequence[int]) -> None:
    """Data of its own into each; half of them compress."""
    rng = random.Random(len(granules))
    with disk.open("r+b") as file:
        for number, granule in enumerate(granules):
            file.seek(granule * GRANULE)
            file.write(text(rng, GRANULE) if number % 2 else os.urandom(GRANULE))


def _scattered(size: int, count: int, salt: int) -> list[int]:
    return sorted(random.Random(salt).sample(range(size // GRANULE), count))


def main() -> None:
    """One stage; prints its seconds, and the peak of this process in bytes."""
    name, folder = sys.argv[1:]
    spent = seconds(lambda: STAGES[name](Path(folder)))
    # Not getrusage: that counts the parent's memory before exec, too.
    peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    if peak is None:
        raise RuntimeError("the kernel does not tell the peak")
    print(spent, int(peak[1]) * KiB)


if __name__ == "__main__":
    main()
