"""Points served over NBD, for people (``mount``) and for drills."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from connectors.nbd.address import NbdAddress, UnixAddress
from connectors.nbd.server import NbdServer
from flows.points import OpenPoint
from sealift.repository.points import PointDisk


@contextmanager
def served(
    point: OpenPoint, disks: Sequence[PointDisk], address: NbdAddress
) -> Iterator[NbdServer]:
    """Disks of a point, each an export of its own name; a single one is the default, too.

    Memory: that of the server (see ``NbdServer``) and of one reader for each disk.
    """
    with ExitStack() as stack:
        exports = {d.disk.id: stack.enter_context(closing(point.reader(d))) for d in disks}
        if len(disks) == 1:
            exports[""] = exports[disks[0].disk.id]
        yield stack.enter_context(NbdServer(exports, address))


@contextmanager
def private_socket() -> Iterator[UnixAddress]:
    """A place for a socket that only this user can enter; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="sealift-nbd-") as folder:
        Path(folder).chmod(0o700)  # the umask may have taken even this
        yield UnixAddress(Path(folder) / "nbd")
