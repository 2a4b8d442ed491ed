"""How many workers a sync has: decided from rates alone."""

import threading
from collections.abc import Callable

import pytest

from sealift.cancel import CancelToken
from sealift.clock import SystemClock
from sealift.pipeline import Crew, ThreadExecutor
from sealift.testing.clock import VirtualClock


def sizes(crew: Crew, rate_of: Callable[[int], float], start: float, seconds: float) -> list[int]:
    """Size after each item of some seconds, when ``rate_of`` the size is the items per second."""
    now, seen = start, []
    while now < start + seconds:
        now += 1 / rate_of(crew.size)
        seen.append(crew.finished(now))
    return seen


def distant(size: int) -> float:
    return size / 0.05  # every call takes 50 ms


def near(size: int) -> float:
    return 500 - 3 * size  # the processor is the limit, and more workers are in each other's way


def test_against_a_distant_service_it_soon_grows_to_all() -> None:
    crew = Crew(32, 100.0)
    assert sizes(crew, distant, 100.0, 1.5)[-1] == 32


def test_where_the_processor_is_the_limit_it_stays_small() -> None:
    crew = Crew(32, 100.0)
    seen = sizes(crew, near, 100.0, 60.0)
    assert set(seen) == {4, 8}
    assert seen.count(8) < len(seen) / 10, "only to try"


def test_it_grows_when_the_service_becomes_distant() -> None:
    crew = Crew(32, 0.0)
    sizes(crew, near, 0.0, 20.0)
    assert sizes(crew, distant, 20.0, 8.0)[-1] == 32


@pytest.mark.parametrize("most", [1, 3, 4])
def test_a_small_crew_is_what_was_asked_for(most: int) -> None:
    assert set(sizes(Crew(most, 0.0), distant, 0.0, 10.0)) == {most}


def test_it_begins_with_as_many_as_were_asked_for_and_tries_no_more_than_the_most() -> None:
    assert set(sizes(Crew(16, 0.0, first=16), near, 0.0, 1.0)) == {16}
    assert sizes(Crew(32, 0.0, first=8), distant, 0.0, 0.05)[0] == 8
    assert Crew(2, 0.0, first=8).size == 2


def test_a_limit_that_is_no_power_of_two_is_reached_and_kept() -> None:
    seen = sizes(Crew(21, 0.0), distant, 0.0, 10.0)
    assert max(seen) == seen[-1] == 21


@pytest.mark.parametrize("items", [10, 1500])
def test_waiting_work_gets_more_workers_and_every_item_is_done_once(items: int) -> None:
    clock, lock, done = SystemClock(), threading.Lock(), list[int]()
    at_once, most = 0, 0

    def work(item: int) -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        clock.sleep(0.02)
        with lock:
            at_once -= 1
            done.append(item)

    before = threading.active_count()
    ThreadExecutor().run(range(items), work, 32, CancelToken())
    assert sorted(done) == list(range(items))
    assert most <= 32
    assert (most > 4) == (items > 100)
    assert threading.active_count() == before


def test_workers_that_do_not_pay_off_leave() -> None:
    """One at a time is the limit here, so that more are no faster."""
    clock, one, alive = VirtualClock(), threading.Lock(), list[int]()

    def work(item: int) -> None:
        with one:
            clock.sleep(0.001)
            alive.append(sum(t.name == "sealift-worker" for t in threading.enumerate()))

    ThreadExecutor(clock).run(range(12_000), work, 32, CancelToken())
    assert len(alive) == 12_000
    assert max(alive) > 4, "more were tried"
    assert max(alive) <= 8 + 4, "and had left before the next try"
