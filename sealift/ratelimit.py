"""One token bucket for calls per second and for bytes per second.

Own code because the engine needs an injected clock in every wait; the libraries at hand
read the machine's clock themselves.
"""

import os
import struct
import threading
from fcntl import LOCK_EX, LOCK_UN, flock
from pathlib import Path
from typing import Protocol

from sealift.cancel import CancelToken
from sealift.clock import Clock
from sealift.private import open_private


class RateLimit(Protocol):
    """Something that makes its callers wait so that a rate is kept."""

    def acquire(self, amount: int) -> None:
        """Return when ``amount`` units may be spent.

        Raises:
            StoppedError: a stop was asked for while waiting; the units count as spent.
        """


class Unlimited:
    """No limit."""

    def acquire(self, amount: int) -> None:
        """Return at once."""


class TokenBucket:
    """At most ``rate`` units a second on average, ``burst`` at once; fair in order of arrival.

    Args:
        rate: units per second, above 0.
        burst: units that may be spent at once after idling; at least one.
        clock: where waits happen.
        cancel: ends a wait.
    """

    def __init__(
        self, rate: float, burst: float, clock: Clock, cancel: CancelToken | None = None
    ) -> None:
        if rate <= 0 or burst < 1:
            raise ValueError("rate must be above 0 and burst at least 1")
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._cancel = cancel or CancelToken()
        self._lock = threading.Lock()
        self._level = burst
        self._at = clock.monotonic()

    def acquire(self, amount: int) -> None:
        """Wait until ``amount`` units are due; the debt of large amounts delays the next caller."""
        with self._lock:
            now = self._clock.monotonic()
            self._level = min(self._burst, self._level + (now - self._at) * self._rate)
            self._at = now
            self._level -= amount
            wait = -self._level / self._rate
        self._cancel.sleep(self._clock, wait)


_DUE = struct.Struct("<d")


class SharedTokenBucket:
    """A token bucket that all processes of one host share through a file.

    For the quota of an account, which does not care how many migrations run. The file
    holds the moment at which everything granted so far is paid for, on the clock that
    all processes of a host have in common (``Clock.monotonic``). A value further ahead
    than any grant can be is of another boot and counts as nothing.

    Args:
        path: of the file; made when missing, mode 0600.
        rate: units per second, above 0.
        burst: units that may be spent at once after idling.
        clock: where waits happen; the system's in real use.
        cancel: ends a wait.
    """

    _LEASES_PER_SECOND = 20
    _LONGEST_DEBT_SECONDS = 600.0

    def __init__(
        self,
        path: Path,
        rate: float,
        burst: float,
        clock: Clock,
        cancel: CancelToken | None = None,
    ) -> None:
        if rate <= 0 or burst < 1:
            raise ValueError("rate must be above 0 and burst at least 1")
        self._rate = rate
        self._burst_seconds = burst / rate
        self._clock = clock
        self._cancel = cancel or CancelToken()
        self._lock = threading.Lock()
        self._leased = 0
        self._fd = open_private(path.parent, path.name, os.O_RDWR | os.O_CREAT)

    def acquire(self, amount: int) -> None:
        """Wait until ``amount`` units are due among all processes."""
        with self._lock:
            wait = 0.0
            if self._leased < amount:
                lease = max(amount, int(self._rate / self._LEASES_PER_SECOND))
                wait = self._grant(lease)
                self._leased += lease
            self._leased -= amount
        self._cancel.sleep(self._clock, wait)

    def _grant(self, amount: int) -> float:
        """Book ``amount`` for this process; the seconds until it is due."""
        flock(self._fd, LOCK_EX)
        try:
            now = self._clock.monotonic()
            stored = os.pread(self._fd, _DUE.size, 0)
            due = _DUE.unpack(stored)[0] if len(stored) == _DUE.size else 0.0
            if not now <= due <= now + self._LONGEST_DEBT_SECONDS:
                due = now
            due += amount / self._rate
            os.pwrite(self._fd, _DUE.pack(due), 0)
        finally:
            flock(self._fd, LOCK_UN)
        return float(max(0.0, due - self._burst_seconds - now))

    def close(self) -> None:
        """Free the file."""
        os.close(self._fd)
