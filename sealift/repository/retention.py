"""Which points stay. Pure: points, policy and time in; reasons for each point out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime

from sealift.errors import PruneRefusedError
from sealift.repository.commits import PointRef

FUTURE_TOLERANCE_SECONDS = 300
"""How far a point may lie ahead of the pruner's clock: hosts without NTP differ by less."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How many points of a machine stay.

    Attributes:
        last: the newest ones.
        hourly: the newest of each of so many hours that have one; as for the rest.
        daily: of days (UTC).
        weekly: of ISO weeks.
        monthly: of months.
        yearly: of years.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0

    def __post_init__(self) -> None:
        if any(getattr(self, f.name) < 0 for f in fields(self)):
            raise ValueError("a number of points is not negative")

    @property
    def keeps_all(self) -> bool:
        """No rule at all means that nothing is ever dropped."""
        return not any(getattr(self, f.name) for f in fields(self))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a policy says of one point: the rules that keep it; without any it is dropped."""

    point: PointRef
    reasons: tuple[str, ...]


_PERIODS: tuple[tuple[str, Callable[[datetime], object]], ...] = (
    ("hourly", lambda t: (t.date(), t.hour)),
    ("daily", lambda t: t.date()),
    ("weekly", lambda t: t.isocalendar()[:2]),
    ("monthly", lambda t: (t.year, t.month)),
    ("yearly", lambda t: t.year),
)


def judge(points: Sequence[PointRef], policy: Retention, now: datetime) -> list[Verdict]:
    """A verdict on each point, in the order given; machines are judged apart.

    The newest point of a machine always stays, and so does what is pinned.

    Raises:
        PruneRefusedError: a point lies in the future: by a wrong clock, or planted so that
            the good ones count as old. Nothing is dropped before somebody has looked.
    """
    latest = int(now.timestamp() * 1000) + FUTURE_TOLERANCE_SECONDS * 1000
    for point in points:
        if point.taken_ms > latest:
            raise PruneRefusedError(
                f"point {point.id.hex()} lies in the future ({_time(point).isoformat()})",
                next_step="see that the clocks of both hosts are right; if the point was planted, "
                "drop it by its id",
                point=point.id.hex(),
            )
    reasons: dict[bytes, list[str]] = {point.id: [] for point in points}
    for vm in dict.fromkeys(point.vm for point in points):
        ours = [point for point in points if point.vm == vm]
        _judge_machine(sorted(ours, key=_age, reverse=True), policy, reasons)
    return [Verdict(point, tuple(reasons[point.id])) for point in points]


def _age(point: PointRef) -> tuple[int, int]:
    return point.taken_ms, point.seq


def _judge_machine(
    newest_first: Sequence[PointRef], policy: Retention, reasons: dict[bytes, list[str]]
) -> None:
    for rank, point in enumerate(newest_first):
        if point.pinned:
            reasons[point.id].append("pinned")
        if policy.keeps_all:
            reasons[point.id].append("no rule")
        elif rank < policy.last:
            reasons[point.id].append("last")
        elif rank == 0:
            reasons[point.id].append("newest")
    for name, period in _PERIODS:
        wanted = getattr(policy, name)
        seen: set[object] = set()
        for point in newest_first:
            cell = period(_time(point))
            if len(seen) < wanted and cell not in seen:
                seen.add(cell)
                reasons[point.id].append(name)


def _time(point: PointRef) -> datetime:
    return datetime.fromtimestamp(point.taken_ms / 1000, UTC)
