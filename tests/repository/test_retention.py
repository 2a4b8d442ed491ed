"""Which points stay: rules, machines apart, and what stops a prune."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealift.errors import PruneRefusedError
from sealift.repository.commits import PointRef
from sealift.repository.retention import Retention, judge

NOW = datetime(2026, 3, 15, 12, 0, tzinfo=UTC)


def point(number: int, age: timedelta, *, vm: str = "vm", pinned: bool = False) -> PointRef:
    taken = int((NOW - age).timestamp() * 1000)
    raw = number.to_bytes(16, "big")
    return PointRef(raw, vm, "plan", number, taken, 1, f"points/{raw.hex()}", bytes(32), pinned)


def kept(points: list[PointRef], **rules: int) -> dict[int, tuple[str, ...]]:
    verdicts = judge(points, Retention(**rules), NOW)
    assert [v.point for v in verdicts] == points
    return {v.point.seq: v.reasons for v in verdicts if v.reasons}


def hourly(count: int) -> list[PointRef]:
    return [point(n, timedelta(hours=count - n)) for n in range(1, count + 1)]


def test_last_keeps_the_newest_whatever_their_order() -> None:
    points = hourly(10)
    assert kept(points, last=3) == {8: ("last",), 9: ("last",), 10: ("last",)}
    assert kept(points[::-1], last=3).keys() == {8, 9, 10}


def test_a_period_keeps_the_newest_point_of_each_cell() -> None:
    points = hourly(72)  # noon of today is the newest, number 72
    assert kept(points, daily=3).keys() == {72, 59, 35}
    assert kept(points, hourly=2, daily=2).keys() == {72, 71, 59}


def test_a_cell_without_a_point_does_not_count() -> None:
    points = [point(1, timedelta(days=40)), point(2, timedelta(days=3)), point(3, timedelta(0))]
    assert kept(points, daily=3).keys() == {1, 2, 3}
    assert kept(points, monthly=2).keys() == {1, 3}


def test_weeks_are_iso_weeks_and_years_are_years() -> None:
    turn = [
        point(1, NOW - datetime(2025, 12, 28, tzinfo=UTC)),
        point(2, NOW - datetime(2025, 12, 31, tzinfo=UTC)),
        point(3, NOW - datetime(2026, 1, 2, tzinfo=UTC)),
    ]
    assert kept(turn, weekly=1).keys() == {3}
    assert kept(turn, weekly=2).keys() == {1, 3}
    assert kept(turn, yearly=2).keys() == {2, 3}


def test_without_a_rule_everything_stays() -> None:
    assert len(kept(hourly(5))) == 5


def test_the_newest_and_the_pinned_stay_always() -> None:
    points = [
        point(1, timedelta(days=900), pinned=True),
        point(2, timedelta(days=800)),
        point(3, timedelta(days=700), vm="other"),
        point(4, timedelta(days=600)),
    ]
    found = kept(points, yearly=1, last=0)
    assert found == {1: ("pinned",), 3: ("newest", "yearly"), 4: ("newest", "yearly")}


def test_machines_are_judged_apart() -> None:
    points = [point(n, timedelta(hours=9 - n), vm=f"vm{n % 2}") for n in range(8)]
    assert kept(points, last=1).keys() == {6, 7}


@pytest.mark.fault(11, 58)
@pytest.mark.parametrize("ahead", [timedelta(minutes=6), timedelta(days=3650)])
def test_a_point_of_the_future_stops_everything(ahead: timedelta) -> None:
    """Planted, it would make the good ones old; with a wrong clock, all of them."""
    points = [*hourly(5), point(6, -ahead)]
    with pytest.raises(PruneRefusedError, match="future"):
        judge(points, Retention(last=1), NOW)
    kept([*hourly(5), point(6, -timedelta(minutes=4))], last=1)


RULES = st.fixed_dictionaries(
    {name: st.integers(0, 4) for name in ("last", "hourly", "daily", "weekly", "monthly", "yearly")}
)


@given(st.lists(st.integers(0, 3_000), max_size=30), RULES)
def test_a_second_judgement_drops_nothing_more(hours: list[int], rules: dict[str, int]) -> None:
    points = [point(n, timedelta(hours=h)) for n, h in enumerate(hours)]
    policy = Retention(**rules)
    stay = [v.point for v in judge(points, policy, NOW) if v.reasons]
    assert all(v.reasons for v in judge(stay, policy, NOW))
    assert bool(stay) == bool(points)


def test_numbers_are_not_negative() -> None:
    with pytest.raises(ValueError, match="negative"):
        Retention(last=-1)
