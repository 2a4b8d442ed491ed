"""Rows: a ratio, a bar, and whether the one keeps to the other."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from sealift.clock import SystemClock

T = TypeVar("T")
CLOCK = SystemClock()


class Sense(Enum):
    """On which side of the bar a ratio has to be."""

    AT_LEAST = "at least"
    AT_MOST = "at most"


@dataclass(frozen=True, slots=True)
class Bar:
    """What is promised.

    Attributes:
        name: of the row, without blanks.
        ratio: definition of the ratio, in words.
        sense: side of ``limit``.
        limit: the bar.
    """

    name: str
    ratio: str
    sense: Sense
    limit: float


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured against a bar.

    Attributes:
        bar: the promise.
        ratio: the measured ratio.
        ours: Sealift's figure, with its unit.
        peer: the peer's or the limit's figure, with its unit.
    """

    bar: Bar
    ratio: float
    ours: str
    peer: str

    @property
    def ok(self) -> bool:
        """Whether the bar is kept, judged before rounding."""
        if self.bar.sense is Sense.AT_LEAST:
            return self.ratio >= self.bar.limit
        return self.ratio <= self.bar.limit

    @property
    def line(self) -> str:
        """``bench NAME ratio X bar Y ok|short``."""
        verdict = "ok" if self.ok else "short"
        return f"bench {self.bar.name} ratio {self.ratio:.3f} bar {self.bar.limit:.3f} {verdict}"


@dataclass(frozen=True, slots=True)
class Pairs:
    """Seconds of repetitions that alternated; one of each is a pair."""

    ours: Sequence[float]
    peer: Sequence[float]

    @property
    def ratio(self) -> float:
        """Median over the pairs of our time by the peer's.

        Of the pairs' ratios rather than of the times: what else the machine does slows both
        halves of a pair alike.
        """
        return statistics.median(a / b for a, b in zip(self.ours, self.peer, strict=True))


def seconds(work: Callable[[], object]) -> float:
    """How long ``work`` takes."""
    started = CLOCK.monotonic()
    work()
    return CLOCK.monotonic() - started


def paired(ours: Callable[[], float], peer: Callable[[], float], repetitions: int) -> Pairs:
    """Alternate both, which take and return seconds; every second pair begins with the peer."""
    mine, theirs = [], []
    for number in range(repetitions):
        if number % 2:
            theirs.append(peer())
            mine.append(ours())
        else:
            mine.append(ours())
            theirs.append(peer())
    return Pairs(mine, theirs)
