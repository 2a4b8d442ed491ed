"""Reading through the whole engine beside nbdcopy, from the same export."""

import statistics
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.disks import CountingWriter, write_data
from benchmarks.measure import CLOCK, Bar, Row, Sense, paired, seconds
from benchmarks.scale import Scale
from connectors.nbd import NbdReader, UnixAddress
from sandbox.nbd.servers import Process, nbdkit, qemu_nbd
from sealift.sync import SyncContext, sync
from sealift.units import format_rate

CONNECTIONS = 4


@dataclass(frozen=True, slots=True)
class Server:
    """An NBD server, and how it is started on a socket for a raw file."""

    name: str
    start: Callable[[Path, Path], AbstractContextManager[Process]]


SERVERS = (
    Server("qemu-nbd", lambda at, raw: qemu_nbd(at, "--read-only", "--format=raw", str(raw))),
    Server("nbdkit", lambda at, raw: nbdkit(at, "--readonly", "file", str(raw))),
)


def measure(scale: Scale, folder: Path) -> Iterator[Row]:
    """One row for each server."""
    raw = write_data(folder / "read.raw", scale.read_bytes, [(0, scale.read_bytes)])
    for server in SERVERS:
        where = folder / f"{server.name}.sock"
        with server.start(where, raw):
            pairs = paired(
                partial(seconds, partial(ours, where)),
                partial(seconds, partial(nbdcopy, where)),
                2 * scale.pairs + 1,  # the kernel's placing of threads makes single runs vary
            )
        yield Row(
            Bar(
                f"read-{server.name}",
                f"speed of the engine reading a raw disk from {server.name} with "
                f"{CONNECTIONS} connections into a writer that counts, by the speed of nbdcopy "
                "with as many connections from the same export to null:",
                Sense.AT_LEAST,
                0.9,
            ),
            1 / pairs.ratio,
            format_rate(scale.read_bytes / statistics.median(pairs.ours)),
            format_rate(scale.read_bytes / statistics.median(pairs.peer)),
        )
    raw.unlink()


def ours(where: Path) -> None:
    """The engine, from connecting to commit."""
    with closing(
        NbdReader(UnixAddress(where), identity="bench", connections=CONNECTIONS)
    ) as reader:
        writer = CountingWriter(reader.size, CONNECTIONS)
        report = sync(reader, writer, SyncContext(CLOCK))
    if not writer.committed or report.progress.sent != reader.size:
        raise RuntimeError(f"{report.progress.sent} bytes of {reader.size} were copied")


def nbdcopy(where: Path) -> None:
    """The peer."""
    uri = f"nbd+unix:///?socket={where}"
    subprocess.run(["nbdcopy", f"--connections={CONNECTIONS}", uri, "null:"], check=True)
