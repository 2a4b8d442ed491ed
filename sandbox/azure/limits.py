"""Request rates: "Understand how Azure Resource Manager throttles requests"."""

import threading
from dataclasses import dataclass

from sandbox.azure.arm_errors import ArmError
from sealift.clock import Clock


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket: how much it holds, and how much comes in per second."""

    size: int
    per_second: int


BUCKETS = {"reads": Bucket(250, 25), "writes": Bucket(200, 10), "deletes": Bucket(200, 10)}
"""Per subscription and service principal, from the page's table."""


class RequestLimits:
    """Counts requests, and refuses those over the limit when they are enforced.

    Args:
        clock: the sandbox's.
        enforced: refuse with 429 and Retry-After; else only say what remains.
    """

    def __init__(self, clock: Clock, *, enforced: bool) -> None:
        self._clock = clock
        self._enforced = enforced
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        now_seconds = clock.monotonic()
        self._levels = {name: float(bucket.size) for name, bucket in BUCKETS.items()}
        self._filled_at = dict.fromkeys(BUCKETS, now_seconds)

    def stall(self, seconds: float) -> None:
        """Be silent for real seconds, or until the server stops."""
        self._stopping.wait(seconds)

    def stop(self) -> None:
        """End all stalls."""
        self._stopping.set()

    def take(self, method: str) -> tuple[tuple[str, str], ...]:
        """One request; the header that says what remains.

        Raises:
            ArmError: 429 TooManyRequests.
        """
        name = {"GET": "reads", "HEAD": "reads", "DELETE": "deletes"}.get(method, "writes")
        bucket, now_seconds = BUCKETS[name], self._clock.monotonic()
        with self._lock:
            gained = (now_seconds - self._filled_at[name]) * bucket.per_second
            level = min(bucket.size, self._levels[name] + gained)
            self._filled_at[name] = now_seconds
            if level < 1 and self._enforced:
                self._levels[name] = level
                message = f"The number of {name} for the subscription exceeded the limit."
                raise ArmError(429, "TooManyRequests", message, retry_after_seconds=1)
            self._levels[name] = max(level - 1, 0.0)
        return ((f"x-ms-ratelimit-remaining-subscription-{name}", str(int(level))),)
