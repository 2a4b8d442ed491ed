"""What is going on right now, gathered from progress events for whoever shows it."""

import threading
from collections import deque
from dataclasses import dataclass

from sealift.clock import Clock
from sealift.progress import DiskProgress, Event, Note, Noted, RateMeter, describe
from sealift.units import format_duration, format_size

STARTING = "starting"
_MAX_WAITING_NOTES = 10_000


@dataclass(frozen=True, slots=True)
class Line:
    """One moving number: a disk, or all of them.

    Attributes:
        name: of the disk, or "all".
        total: bytes that the sync covers.
        done: bytes of these that are durable on the target.
        resumed: bytes of ``done`` that an earlier run had brought there.
        sent: bytes given to the target by this run.
        rate: bytes per second over the last 30 seconds.
        finished: nothing is left to do.
    """

    name: str
    total: int
    done: int
    resumed: int
    sent: int
    rate: float
    finished: bool

    @property
    def seconds_left(self) -> float | None:
        """At the present rate; None while nothing moves."""
        return max(0, self.total - self.done) / self.rate if self.rate > 0 else None

    def text(self) -> str:
        """``"12.0 GiB of 40.0 GiB, 171.0 MiB/s, 2 min 44 s left"``."""
        if self.finished:
            return f"{format_size(self.done)}, done"
        return describe(self.done, self.total, self.rate)


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything that can be shown at one moment.

    Attributes:
        phase: what is being done, in words.
        phase_seconds: for how long.
        seq: the round's number; 0 outside of rounds.
        disks: of the running round.
        total: over these disks.
        quiet_seconds: since the last byte or event.
    """

    phase: str
    phase_seconds: float
    seq: int
    disks: tuple[Line, ...]
    total: Line
    quiet_seconds: float

    def text(self) -> str:
        """One line for logs."""
        if self.disks and not self.total.finished:
            return f"round {self.seq}: {self.total.text()}"
        return f"{self.phase}: {format_duration(self.phase_seconds)}"


class Board:
    """A progress sink; thread-safe. ``picture`` is for one reader."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._notes: deque[Noted] = deque(maxlen=_MAX_WAITING_NOTES)
        self._disks: dict[str, DiskProgress] = {}
        self._meters: dict[str, RateMeter] = {}
        self._seq = 0
        self._phase = STARTING
        self._phase_at = self._moved_at = clock.monotonic()

    def __call__(self, event: Event) -> None:
        """Take an event; never waits on anyone who shows it."""
        with self._lock:
            self._moved_at = self._clock.monotonic()
            if isinstance(event, DiskProgress):
                self._progress(event)
            else:
                self._notes.append(event)
                if event.note in (Note.PHASE, Note.ROUND, Note.FORECAST, Note.UNDO):
                    self._phase, self._phase_at = event.text, self._moved_at

    def _progress(self, event: DiskProgress) -> None:
        if event.seq != self._seq:
            self._seq = event.seq
            self._disks.clear()
            self._meters.clear()
        self._disks[event.disk_id] = event

    def take_notes(self) -> list[Noted]:
        """Sentences that nobody has taken yet, oldest first."""
        with self._lock:
            taken = list(self._notes)
            self._notes.clear()
            return taken

    def picture(self) -> Picture:
        """The state now; rates are measured from call to call."""
        with self._lock:
            now = self._clock.monotonic()
            disks = tuple(self._line(p) for p in self._disks.values())
            return Picture(
                self._phase,
                now - self._phase_at,
                self._seq,
                disks,
                _summed(disks),
                now - self._moved_at,
            )

    def _line(self, p: DiskProgress) -> Line:
        meter = self._meters.setdefault(p.disk_id, RateMeter(self._clock))
        rate = meter.update(p.done - p.resumed)
        return Line(p.disk_id, p.total, p.done, p.resumed, p.sent, rate, p.finished)


def _summed(disks: tuple[Line, ...]) -> Line:
    return Line(
        "all",
        sum(d.total for d in disks),
        sum(d.done for d in disks),
        sum(d.resumed for d in disks),
        sum(d.sent for d in disks),
        sum(d.rate for d in disks if not d.finished),
        bool(disks) and all(d.finished for d in disks),
    )
