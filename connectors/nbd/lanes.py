"""One reader at a time on each core, for a server that runs on the same machine.

Bytes of a Unix socket lie in the cache of the core that the server wrote them on. The
kernel wakes the server on the core of the reader that sent the request when that reader
is alone there and no other core is idle; so one reader held on each core keeps both sides
of a connection on one core. Readers that move about, or two on a core, leave server and
reader on different cores, and every byte crosses from one cache to the other, as does the
memory that the kernel carries it in.

Who waits for the server's disk wants more requests at once instead: lanes are left when
reads turn out slow.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

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


class Lanes:
    """A lane for each core that this process may use. Safe in any number of threads.

    Args:
        clock: measures how fast a lane reads.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._free = sorted(os.sched_getaffinity(0))
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
        core = self._take(patience) if length >= _WORTH_BYTES else None
        if core is None:
            yield
            return
        started = self._clock.monotonic()
        try:
            with _only_on(core):
                yield
        finally:
            self._give(core, slow=self._clock.monotonic() - started > patience)

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
