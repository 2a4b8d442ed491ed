"""Request rates: one token bucket per limit, on the sandbox's clock."""

import threading

from sandbox.aws.errors import Reason, throttled
from sandbox.aws.rules import Quotas
from sealift.clock import Clock


class _Bucket:
    """Holds at most one second's worth of requests."""

    def __init__(self, rate: float, now_seconds: float) -> None:
        self._rate = rate
        self._level = rate
        self._filled_at = now_seconds

    def take(self, now_seconds: float) -> bool:
        gained = (now_seconds - self._filled_at) * self._rate
        self._level = min(self._rate, self._level + gained)
        self._filled_at = now_seconds
        if self._level < 1:
            return False
        self._level -= 1
        return True


class RateLimits:
    """Counts requests against ``Quotas``; refuses with the documented throttle reasons."""

    def __init__(self, quotas: Quotas, clock: Clock) -> None:
        self._clock = clock
        self._buckets: dict[tuple[str, str], _Bucket] = {}
        self._lock = threading.Lock()
        self.quotas = quotas

    def put(self, snapshot_id: str) -> None:
        """One PutSnapshotBlock."""
        quotas = self.quotas
        self._take("put", snapshot_id, quotas.put_per_snapshot, Reason.RESOURCE_LEVEL_THROTTLE)
        self._take("put", "", quotas.put_per_account, Reason.ACCOUNT_THROTTLED)

    def get(self, snapshot_id: str) -> None:
        """One GetSnapshotBlock."""
        quotas = self.quotas
        self._take("get", snapshot_id, quotas.get_per_snapshot, Reason.RESOURCE_LEVEL_THROTTLE)
        self._take("get", "", quotas.get_per_account, Reason.ACCOUNT_THROTTLED)

    def list_blocks(self) -> None:
        """One ListSnapshotBlocks."""
        rate = self.quotas.list_blocks
        self._take("list-blocks", "", rate, Reason.ACCOUNT_THROTTLED)

    def list_changed(self) -> None:
        """One ListChangedBlocks."""
        rate = self.quotas.list_changed
        self._take("list-changed", "", rate, Reason.ACCOUNT_THROTTLED)

    def start(self) -> None:
        """One StartSnapshot."""
        self._take("start", "", self.quotas.start_per_account, Reason.ACCOUNT_THROTTLED)

    def complete(self) -> None:
        """One CompleteSnapshot."""
        self._take("complete", "", self.quotas.complete_per_account, Reason.ACCOUNT_THROTTLED)

    def forget(self, snapshot_id: str) -> None:
        """Drop the buckets of a deleted snapshot."""
        with self._lock:
            for name in ("put", "get"):
                self._buckets.pop((name, snapshot_id), None)

    def _take(self, name: str, scope: str, rate: float | None, reason: Reason) -> None:
        if rate is None:
            return
        now_seconds = self._clock.monotonic()
        with self._lock:
            bucket = self._buckets.get((name, scope))
            if bucket is None:
                bucket = self._buckets[(name, scope)] = _Bucket(rate, now_seconds)
            granted = bucket.take(now_seconds)
        if not granted:
            raise throttled(reason)
