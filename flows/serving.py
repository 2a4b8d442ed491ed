"""Points served over NBD, for people (``mount``) and for drills."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from connectors.local.overlay import OverlayServer
from connectors.nbd.address import NbdAddress, UnixAddress
from connectors.nbd.server import NbdServer
from flows.points import OpenPoint
from sealift.clock import Clock
from sealift.errors import UsageError
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


@contextmanager
def served_writable(
    point: OpenPoint, disks: Sequence[PointDisk], socket: Path | None, limit: int, clock: Clock
) -> Iterator[Mapping[str, UnixAddress]]:
    """By disk id, where it is served with a layer that takes writes and is gone afterwards.

    Args:
        point: only read.
        disks: of it.
        socket: of the one disk; None for sockets that only this user can reach.
        limit: bytes of each layer.
        clock: time.

    Raises:
        UsageError: a socket for several disks.
    """
    if socket is not None and len(disks) != 1:
        raise UsageError("one socket serves one disk", next_step="name the disk with --disk")
    with ExitStack() as stack:
        below = stack.enter_context(private_socket())
        stack.enter_context(served(point, disks, below))
        folder = below.path.parent
        found = {}
        for number, one in enumerate(disks):
            path = socket or folder / f"top{number}"
            overlay = OverlayServer(
                below, one.disk.id, one.tree.size, path, limit, Path(tempfile.gettempdir()), clock
            )
            found[one.disk.id] = stack.enter_context(overlay).address
        yield found
