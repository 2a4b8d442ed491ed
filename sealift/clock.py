"""The only module that reads time or sleeps."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Time as a dependency, so that a whole migration can run on a virtual clock."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back. For durations and deadlines."""

    def now(self) -> datetime:
        """Wall clock in UTC, for people and for records only; may jump."""

    def sleep(self, seconds: float) -> None:
        """Return after ``seconds`` (at once if not positive)."""


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        """See ``Clock.monotonic``."""
        return time.monotonic()

    def now(self) -> datetime:
        """See ``Clock.now``."""
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        """See ``Clock.sleep``."""
        if seconds > 0:
            time.sleep(seconds)
