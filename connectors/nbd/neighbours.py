"""What serves an export, as far as it decides how it is read fast.

QEMU and qemu-nbd send everything in one thread, whatever the number of connections; others,
nbdkit among them, have a thread for each request. Measured in docs/adr/0011.
"""

import socket
import struct
from enum import Enum, auto
from pathlib import Path

from sealift.units import KiB, MiB, round_up

READ_REQUEST_BYTES = 512 * KiB
"""Two of these for 1 MiB measured 1.2 to 1.4 times as fast as one of 1 MiB, from qemu-nbd and
from nbdkit; a multiple of every server's smallest block."""
_CREDENTIALS = struct.Struct("@3i")  # struct ucred: pid, uid, gid


class Server(Enum):
    """Where a server runs, and in how many threads."""

    DISTANT = auto()
    """Behind a network, for all we know."""
    ONE_THREAD = auto()
    """QEMU or qemu-nbd on this machine."""
    MANY_THREADS = auto()
    """Anything else on this machine."""

    def request_bytes(self, length: int) -> int:
        """How long the requests of a read of ``length`` bytes are; a multiple of 512 KiB.

        Threads answer side by side, so two requests keep both ends busy, and each costs a turn
        of the interpreter's lock. One thread wants to read ahead while it sends.
        """
        half = round_up(-(-length // 2), READ_REQUEST_BYTES)
        return half if self is Server.MANY_THREADS else READ_REQUEST_BYTES

    @property
    def read_bytes(self) -> int:
        """How much one connection asks for at once.

        What one thread read ahead waits in memory until that thread has sent what is before
        it. With more than a MiB for each of four connections it is no longer in the processor's
        cache by then (docs/adr/0011).
        """
        return MiB if self is Server.ONE_THREAD else 4 * MiB


def server_behind(sock: socket.socket) -> Server:
    """Who listens at the other end of a connected socket, by the kernel's word.

    One that is not seen, as in another container, counts as one of many threads.
    """
    if sock.family != socket.AF_UNIX:
        return Server.DISTANT
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        program = Path(f"/proc/{_CREDENTIALS.unpack(raw)[0]}/comm").read_bytes()
    except OSError:
        return Server.MANY_THREADS
    return Server.ONE_THREAD if program.startswith(b"qemu") else Server.MANY_THREADS
