"""On which core a reader waits for a server of the same machine.

Bytes of a Unix socket lie in the cache of the core that the server wrote them on. The
kernel wakes the server on the core of the reader that sent the request when that reader
is alone there and no other core is idle; so one reader held on each core keeps both sides
of a connection on one core. Readers that move about, or two on a core, leave server and
reader on different cores, and every byte crosses from one cache to the other, as does the
memory that the kernel carries it in.

A server of one thread is at one core at a time, whatever we do: its readers take any other.

Who waits for the server's disk wants more requests at once instead: lanes are left when
reads turn out slow.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from connectors.nbd.neighbours import Server
from sealift.clock import Clock
from sealift.units import MiB

_FAST_BYTES_PER_SECOND = 256 * MiB
"""A lane that reads slower than this waits for the server: from the page cache, one reads
about 2 GiB/s."""
_WORTH_BYTES = 2 * MiB
"""A shorter read does not pay for the change of core: a sync with reads of 512 KiB took 7 to
14 % more processor time with lanes, one with reads of 4 MiB 6 to 12 % less (docs/adr/0011)."""
_SLOW_IN_A_ROW = 4  # one or two are another process's turn on the core
_REST_SECONDS = 1.0


def lanes_to(server: Server, readers: int, clock: Clock) -> "Lanes | None":
    """Lanes for so many readers at once: only to threads near by, where cores are scarcer."""
    cores = sorted(os.sched_getaffinity(0))
    if server is not Server.MANY_THREADS or readers <= len(cores):
        return None
    return Lanes(clock, cores, readers)


class Lanes:
    """Lanes, each on a core. Safe in any number of threads.

    Args:
        clock: measures how fast a lane reads.
        cores: one for each lane.
        readers: how many there are; while one is busy with something else, a digest or a call
            to the cloud, cores are better left to whoever needs one.
    """

    def __init__(self, clock: Clock, cores: Sequence[int], readers: int) -> None:
        self._clock = clock
        self._free = list(cores)
        self._readers, self._inside = readers, 0
        self._slow = 0
        self._resting_until = clock.monotonic()
        self._condition = threading.Condition()

    @contextmanager
    def hold(self, length: int) -> Iterator[None]:
        """Read ``length`` bytes inside, on a core of our own when they are many.

        Waits for a lane no longer than a fast read takes, and goes without then: nobody
        waits for a lane whose server hangs. The thread may use its cores as before
        afterwards.
        """
        patience = length / _FAST_BYTES_PER_SECOND
        with self._entered() as worth:
            core = self._take(patience) if worth and length >= _WORTH_BYTES else None
            if core is None:
                yield
                return
            started = self._clock.monotonic()
            try:
                with _only_on(core):
                    yield
            finally:
                self._give(core, slow=self._clock.monotonic() - started > patience)

    @contextmanager
    def _entered(self) -> Iterator[bool]:
        """Whether all readers are inside, and so do nothing but read."""
        with self._condition:
            self._inside += 1
            worth = self._inside >= self._readers
        try:
            yield worth
        finally:
            with self._condition:
                self._inside -= 1

    def _take(self, patience: float) -> int | None:
        with self._condition:
            if self._clock.monotonic() < self._resting_until:
                return None
            self._condition.wait_for(lambda: self._free, patience)
            return self._free.pop() if self._free else None

    def _give(self, core: int, *, slow: bool) -> None:
        with self._condition:
            self._free.append(core)
            self._slow = self._slow + 1 if slow else 0
            if self._slow >= _SLOW_IN_A_ROW:
                self._slow = 0
                self._resting_until = self._clock.monotonic() + _REST_SECONDS
            self._condition.notify()


@contextmanager
def _only_on(core: int) -> Iterator[None]:
    """Keep the calling thread on one core; without effect where the system forbids it."""
    before = os.sched_getaffinity(0)
    _allow({core} & before)
    try:
        yield
    finally:
        _allow(before)


def _allow(cores: set[int]) -> None:
    try:
        if cores:
            os.sched_setaffinity(0, cores)
    except OSError:
        return
