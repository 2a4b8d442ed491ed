"""Peak memory of a sync, in a process of its own, for a small and a large sparse disk.

``python -m benchmarks.memory DISK FOLDER ENDPOINT`` is that process.
"""

import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.accepting import accepting
from benchmarks.disks import spread, write_data
from benchmarks.ebs_seed import BLOCK, Seed, clients
from benchmarks.measure import Bar, Row, Sense
from benchmarks.scale import Scale
from sealift.units import KiB, MiB, format_size

LIMIT_BYTES = 300 * MiB
FLAT = Bar(
    "memory-flat",
    "peak memory of the sync of a large sparse disk (64 GiB) by that of a small one (1 GiB) with "
    "as much data, into the EBS writer with the default number of calls in flight",
    Sense.AT_MOST,
    1.1,
)
PEAK = Bar(
    "memory-peak",
    "the larger of the two peaks by 300 MiB, the SDK and the interpreter included",
    Sense.AT_MOST,
    1.0,
)


def measure(scale: Scale, folder: Path) -> Iterator[Row]:
    """Two rows."""
    small, large = (
        _disk(folder, size, scale.memory_data_bytes)
        for size in (scale.small_bytes, scale.large_bytes)
    )
    with accepting() as endpoint:
        peaks = [
            (_peak(small, folder / f"s{n}", endpoint), _peak(large, folder / f"l{n}", endpoint))
            for n in range(scale.pairs)
        ]
    of_small, of_large = (int(statistics.median(p)) for p in zip(*peaks, strict=True))
    flat = statistics.median(b / a for a, b in peaks)
    yield Row(FLAT, flat, format_size(of_large), format_size(of_small))
    most = max(of_small, of_large)
    yield Row(PEAK, most / LIMIT_BYTES, format_size(most), format_size(LIMIT_BYTES))


def _disk(folder: Path, size: int, data: int) -> Path:
    return write_data(folder / f"{size}.raw", size, spread(size, data, BLOCK))


def _peak(disk: Path, folder: Path, endpoint: str) -> int:
    """Bytes."""
    command = [sys.executable, "-m", "benchmarks.memory", str(disk), str(folder), endpoint]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """One sync; prints the process's peak in bytes."""
    disk, folder, endpoint = sys.argv[1:]
    Seed(Path(disk), Path(folder), clients(endpoint)).ours()
    # Not getrusage: that counts the parent's memory before exec, too.
    peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    if peak is None:
        raise RuntimeError("the kernel does not tell the peak")
    print(int(peak[1]) * KiB)


if __name__ == "__main__":
    main()
