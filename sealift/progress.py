"""Progress as events: every phase has a name, a unit and a moving number."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from sealift.clock import Clock
from sealift.units import format_duration, format_rate, format_size

RATE_WINDOW_SECONDS = 30.0


class Note(Enum):
    """Moments that people and machines want to hear about."""

    PHASE = "phase"
    RESUMED = "resumed"
    ROUND = "round"
    WARNING = "warning"
    FORECAST = "forecast"
    CUTOVER = "cutover"
    UNDO = "undo"
    KEPT = "kept"


Facts = tuple[tuple[str, str | int | float], ...]


@dataclass(frozen=True, slots=True)
class Noted:
    """A moment, in one sentence; ``facts`` are (name, value) pairs for machines."""

    note: Note
    text: str
    facts: Facts = ()


@dataclass(frozen=True, slots=True)
class DiskProgress:
    """Where one disk of one round stands; all in bytes.

    Attributes:
        disk_id: the disk.
        seq: point number.
        total: bytes that this sync covers; an estimate until the whole disk was walked.
        done: of these, how many are durable on the target or proven to be there.
        resumed: of ``done``, how many an earlier run had already made durable.
        read: bytes read from the source by this run.
        sent: bytes given to the target by this run.
        unchanged: bytes that were read and found equal to the base.
        finished: the last event of this sync.
    """

    disk_id: str
    seq: int
    total: int = 0
    done: int = 0
    resumed: int = 0
    read: int = 0
    sent: int = 0
    unchanged: int = 0
    finished: bool = False


Event = Noted | DiskProgress
Sink = Callable[[Event], None]


def silent(event: Event) -> None:
    """A sink that shows nothing."""


class DiskMeter:
    """Counts one disk's sync from any thread and reports at most ten times a second."""

    _REPORT_SECONDS = 0.1

    def __init__(self, start: DiskProgress, sink: Sink, clock: Clock) -> None:
        self._start = start
        self._total, self._done, self._resumed = start.total, start.done, start.resumed
        self._read, self._sent, self._unchanged = start.read, start.sent, start.unchanged
        self._sink = sink
        self._clock = clock
        self._lock = threading.Lock()
        self._reported = clock.monotonic()
        sink(start)

    @property
    def progress(self) -> DiskProgress:
        """The counts now."""
        with self._lock:
            return self._counts()

    def add(
        self,
        *,
        total: int = 0,
        done: int = 0,
        resumed: int = 0,
        read: int = 0,
        sent: int = 0,
        unchanged: int = 0,
    ) -> None:
        """Add bytes to the counts."""
        with self._lock:
            self._total += total
            self._done += done
            self._resumed += resumed
            self._read += read
            self._sent += sent
            self._unchanged += unchanged
            now = self._clock.monotonic()
            if now - self._reported < self._REPORT_SECONDS:
                return
            self._reported = now
            current = self._counts()
        self._sink(current)

    def finish(self) -> DiskProgress:
        """Report the last counts; what was expected and not needed no longer counts."""
        with self._lock:
            self._total = self._done
            current = replace(self._counts(), finished=True)
        self._sink(current)
        return current

    def _counts(self) -> DiskProgress:
        return replace(
            self._start,
            total=self._total,
            done=self._done,
            resumed=self._resumed,
            read=self._read,
            sent=self._sent,
            unchanged=self._unchanged,
        )


class RateMeter:
    """Bytes per second over the last 30 seconds, and what that means for the rest."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, int]] = deque()

    def update(self, done: int) -> float:
        """Rate in bytes per second after ``done`` bytes in all."""
        now = self._clock.monotonic()
        self._samples.append((now, done))
        while now - self._samples[0][0] > RATE_WINDOW_SECONDS and len(self._samples) > 2:
            self._samples.popleft()
        first_at, first_done = self._samples[0]
        return (done - first_done) / (now - first_at) if now > first_at else 0.0


def describe(done: int, total: int, rate: float) -> str:
    """``"12.0 GiB of 40.0 GiB, 171.0 MiB/s, 2 min 44 s left"``."""
    text = f"{format_size(done)} of {format_size(total)}"
    if rate <= 0:
        return f"{text}, no bytes moved yet"
    left = format_duration(max(0, total - done) / rate)
    return f"{text}, {format_rate(rate)}, {left} left"
