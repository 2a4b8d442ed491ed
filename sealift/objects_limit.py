"""Limits around an object store: bytes and calls a second, and the pace that it asks for."""

import threading
from collections.abc import Callable
from typing import Any

from sealift.cancel import CancelToken
from sealift.clock import Clock
from sealift.errors import ThrottledError
from sealift.objects import ObjectStore
from sealift.objects_decorator import StoreCall, StoreDecorator, T
from sealift.ratelimit import RateLimit, Unlimited

_CUT = 0.7
_GROWTH_PER_SECOND = 1.05
"""A cut is made good after 7.3 s, so a limit that stays is met again by one call in 7.3 s of
calls: the fewer of them are refused, the higher the limit is."""
_SAME_STORM_SECONDS = 1.0
_SLOWEST_PER_SECOND = 0.5
_FORGOTTEN_SECONDS = 300.0


class LimitedStore(StoreDecorator):
    """Makes callers wait before what they ask for is over a limit.

    Belongs below the retry layer, so that attempts count. A get of unknown length is counted
    when it is through; a list counts as one call.

    Args:
        inner: the store.
        calls: per second.
        sent: bytes per second that are put.
        received: bytes per second that are read.
    """

    def __init__(
        self,
        inner: ObjectStore,
        *,
        calls: RateLimit | None = None,
        sent: RateLimit | None = None,
        received: RateLimit | None = None,
    ) -> None:
        super().__init__(inner)
        self._calls = calls or Unlimited()
        self._sent = sent or Unlimited()
        self._received = received or Unlimited()

    def _around(self, call: StoreCall, effect: Callable[[], T]) -> T:
        self._calls.acquire(1)
        if call.sent_bytes:
            self._sent.acquire(call.sent_bytes)
        if call.asked_bytes:
            self._received.acquire(call.asked_bytes)
        result: Any = effect()
        if call.verb == "get" and not call.asked_bytes:
            self._received.acquire(len(result))
        return result  # type: ignore[no-any-return]


class PacedStore(StoreDecorator):
    """Slows all its callers down together once the store throttles one of them.

    Each caller for itself would meet the same limit again and again, and add to the storm.
    A refusal cuts the rate of all to 70 % of what went through in the second before; then it
    grows by 5 % a second. A delay that the store names holds for all. After five minutes
    without a refusal there is no limit any more.

    Args:
        inner: the store.
        clock: where waits happen.
        cancel: ends a wait.
    """

    def __init__(self, inner: ObjectStore, clock: Clock, cancel: CancelToken | None = None) -> None:
        super().__init__(inner)
        self._clock = clock
        self._cancel = cancel or CancelToken()
        self._lock = threading.Lock()
        self._rate: float | None = None
        self._changed_at = self._refused_at = self._due = clock.monotonic()
        self._second_began = self._due
        self._through = self._through_before = 0

    def _around(self, call: StoreCall, effect: Callable[[], T]) -> T:
        self._wait()
        try:
            result = effect()
        except ThrottledError as error:
            self._refused(error.retry_after_seconds or 0.0)
            raise
        self._went_through()
        return result

    def _wait(self) -> None:
        with self._lock:
            now = self._clock.monotonic()
            if self._rate is not None:
                self._rate *= _GROWTH_PER_SECOND ** (now - self._changed_at)
                self._changed_at = now
                if now - self._refused_at > _FORGOTTEN_SECONDS:
                    self._rate = None
            turn = max(now, self._due)
            if self._rate is not None:
                self._due = turn + 1 / self._rate
        self._cancel.sleep(self._clock, turn - now)

    def _went_through(self) -> None:
        with self._lock:
            self._next_second()
            self._through += 1

    def _refused(self, named_seconds: float) -> None:
        with self._lock:
            self._next_second()
            now = self._clock.monotonic()
            self._due = max(self._due, now + named_seconds)
            storm, self._refused_at = now - self._refused_at < _SAME_STORM_SECONDS, now
            if storm and self._rate is not None:
                return  # an answer to what was sent before the cut
            seen = float(max(self._through, self._through_before))
            before = seen if self._rate is None else min(self._rate, max(seen, 1.0))
            self._rate = max(_SLOWEST_PER_SECOND, _CUT * before)
            self._changed_at = now

    def _next_second(self) -> None:
        """Count calls by the second."""
        now = self._clock.monotonic()
        if now - self._second_began >= 1.0:
            recent = now - self._second_began < 2.0
            self._through_before = self._through if recent else 0
            self._through, self._second_began = 0, now
