"""NbdReader beside nbdcopy, in the same run: how fast a disk comes out of an NBD server.

    python benchmarks/nbd_read.py [--size 2G] [--passes 3] [--threads 4] [--block 1M]

Both read every DATA extent and throw it away: nbdcopy with 4 connections to ``null:``,
NbdReader with threads that share a queue of blocks. Passes alternate, the best of each
counts, and the ratio is what to look at: absolute figures of a shared machine mean little.
"""

import argparse
import os
import queue
import subprocess
import tempfile
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path

from connectors.nbd import NbdReader, UnixAddress
from sandbox.nbd.servers import Process, nbdkit, qemu_nbd
from sealift.clock import SystemClock
from sealift.extents import Kind
from sealift.units import MiB, format_rate, parse_size

CLOCK = SystemClock()


@dataclass(frozen=True)
class Case:
    """A server, and how it is started on a socket."""

    name: str
    start: Callable[[Path], AbstractContextManager[Process]]


def random_file(path: Path, size: int) -> Path:
    """Incompressible data with a hole in every fourth 16 MiB; in the page cache afterwards."""
    step = 16 * MiB
    with path.open("wb") as file:
        for number, start in enumerate(range(0, size, step)):
            if number % 4 != 3:
                file.seek(start)
                file.write(os.urandom(min(step, size - start)))
        file.truncate(size)
    return path


def nbdcopy(where: Path) -> float:
    """Seconds of nbdcopy to nowhere."""
    started = CLOCK.monotonic()
    uri = f"nbd+unix:///?socket={where}"
    subprocess.run(["nbdcopy", "--connections=4", uri, "null:"], check=True)
    return CLOCK.monotonic() - started


def ours(where: Path, threads: int, block: int) -> tuple[float, int]:
    """(seconds, bytes of DATA) of NbdReader, one reused buffer per thread."""
    started = CLOCK.monotonic()
    with closing(NbdReader(UnixAddress(where), identity="bench", connections=threads)) as reader:
        work: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()
        workers = [
            threading.Thread(target=drain, args=(reader, work, block)) for _ in range(threads)
        ]
        for worker in workers:
            worker.start()
        total = 0
        for extent in reader.extents(0, reader.size):
            if extent.kind is Kind.DATA:
                total += extent.length
                for start in range(extent.start, extent.end, block):
                    work.put((start, min(block, extent.end - start)))
        for _ in workers:
            work.put(None)
        for worker in workers:
            worker.join()
    return CLOCK.monotonic() - started, total


def drain(reader: NbdReader, work: "queue.SimpleQueue[tuple[int, int] | None]", block: int) -> None:
    """Read until told to end."""
    buffer = memoryview(bytearray(block))
    while (item := work.get()) is not None:
        reader.read_into(item[0], buffer[: item[1]])


def measure(case: Case, folder: Path, passes: int, threads: int, block: int) -> None:
    """Print one line for a case."""
    where = folder / f"{case.name}.sock"
    theirs_best, ours_best, total = float("inf"), float("inf"), 0
    with case.start(where):
        for _ in range(passes):
            theirs_best = min(theirs_best, nbdcopy(where))
            seconds, total = ours(where, threads, block)
            ours_best = min(ours_best, seconds)
    print(
        f"{case.name}: {total // MiB} MiB of data, "
        f"nbdcopy {format_rate(total / theirs_best)}, ours {format_rate(total / ours_best)}, "
        f"ratio {theirs_best / ours_best:.2f}",
        flush=True,
    )


def main() -> None:
    """Measure every case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=parse_size, default=parse_size("2G"))
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--block", type=parse_size, default=parse_size("1M"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sealift-bench-") as name:
        folder = Path(name)
        raw = random_file(folder / "raw", options.size)
        cases = [
            Case("qemu-nbd", lambda w: qemu_nbd(w, "--read-only", "--format=raw", str(raw))),
            Case("nbdkit-file", lambda w: nbdkit(w, "--readonly", "file", str(raw))),
            Case(
                "nbdkit-sparse-random",
                lambda w: nbdkit(w, "sparse-random", str(options.size), "seed=1", "percent=50"),
            ),
        ]
        for case in cases:
            measure(case, folder, options.passes, options.threads, options.block)


if __name__ == "__main__":
    main()
