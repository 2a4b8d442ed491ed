"""A clock that moves only when somebody sleeps."""

import threading
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class VirtualClock:
    """Starts at 2026-01-01 00:00 UTC; ``sleep`` returns at once and moves it. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds = 0.0

    def monotonic(self) -> float:
        """See ``Clock.monotonic``."""
        return self._seconds

    def now(self) -> datetime:
        """See ``Clock.now``."""
        return _EPOCH + timedelta(seconds=self._seconds)

    def sleep(self, seconds: float) -> None:
        """See ``Clock.sleep``."""
        with self._lock:
            self._seconds += max(0.0, seconds)
