"""How long one attempt of a call may take, by what its bytes need at a slowest rate.

A timeout bounds each silence. A peer that sends or takes one byte before every silence is over is
not bounded by it, and holds a worker for ever.
"""

import socket

from sealift.clock import Clock
from sealift.units import KiB, MiB

SLOWEST_BYTES_PER_SECOND = 4 * KiB
"""A block of 512 KiB may take 128 s beyond the grace: 32 connections share 1 Mbit/s."""
LARGEST_ANSWER_BYTES = 64 * MiB
"""No answer of EC2 or EBS comes near: pages are below 1 MiB, a block is 512 KiB."""


class Pace:
    """How long one attempt may take: a grace, and what its bytes need at the slowest rate.

    Args:
        grace_seconds: for everything but moving bytes, such as the service's own work.
        clock: the machine's; a socket knows no other.
        largest_answer: bytes of an answer with its headers.
    """

    def __init__(
        self, grace_seconds: float, clock: Clock, largest_answer: int = LARGEST_ANSWER_BYTES
    ) -> None:
        self._clock = clock
        self.largest_answer = largest_answer
        self._began = clock.monotonic()
        self._grace = grace_seconds
        self._bytes = 0

    def moved(self, count: int) -> None:
        """Bytes went either way."""
        self._bytes += count

    @property
    def left_seconds(self) -> float:
        """Until the attempt is too slow."""
        allowed = self._grace + self._bytes / SLOWEST_BYTES_PER_SECOND
        return self._began + allowed - self._clock.monotonic()

    def hold(self, sock: socket.socket) -> None:
        """Let the next operation of the socket end in time.

        Raises:
            TimeoutError: the attempt is too slow already.
        """
        left = self.left_seconds
        if left <= 0:
            raise TimeoutError("slower than the slowest rate")
        usual = sock.gettimeout()
        if usual is None or usual > left:
            sock.settimeout(left)
