"""One token bucket for calls per second and for bytes per second.

Own code because the engine needs an injected clock in every wait; the libraries at hand
read the machine's clock themselves.
"""

import threading
from typing import Protocol

from sealift.clock import Clock


class RateLimit(Protocol):
    """Something that makes its callers wait so that a rate is kept."""

    def acquire(self, amount: int) -> None:
        """Return when ``amount`` units may be spent."""


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
    """

    def __init__(self, rate: float, burst: float, clock: Clock) -> None:
        if rate <= 0 or burst < 1:
            raise ValueError("rate must be above 0 and burst at least 1")
        self._rate = rate
        self._burst = burst
        self._clock = clock
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
        if wait > 0:
            self._clock.sleep(wait)
