"""A clock that moves only when somebody sleeps, and whose wall time jumps when it is told to."""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class VirtualClock:
    """Starts at 2026-01-01 00:00 UTC; ``sleep`` returns at once and moves it.

    Thread-safe: one addition under the interpreter's lock at a time is all a test needs.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._jumped = timedelta()

    def monotonic(self) -> float:
        """See ``Clock.monotonic``."""
        return self._seconds

    def now(self) -> datetime:
        """See ``Clock.now``."""
        return _EPOCH + timedelta(seconds=self._seconds) + self._jumped

    def sleep(self, seconds: float) -> None:
        """See ``Clock.sleep``."""
        self._seconds += max(0.0, seconds)

    def jump(self, by: timedelta) -> None:
        """The wall clock is set: back when negative. ``monotonic`` does not notice."""
        self._jumped += by
