"""Retries and rate limits on a virtual clock."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealift.cancel import CancelToken
from sealift.errors import SourceError, StoppedError, ThrottledError, TransientError
from sealift.extents import Extent
from sealift.patient import PatientReader
from sealift.ratelimit import SharedTokenBucket, TokenBucket, Unlimited
from sealift.retry import Retrier, RetryPolicy
from sealift.testing.clock import VirtualClock
from sealift.testing.memory import MemoryReader


def retrier(clock: VirtualClock, **policy: float) -> Retrier:
    return Retrier(RetryPolicy(**policy), clock, rng=random.Random(1))


class Flaky:
    def __init__(self, times: int, error: Exception) -> None:
        self.left, self.error, self.calls = times, error, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise self.error
        return "done"


def test_transient_errors_are_repeated_until_it_works() -> None:
    clock, flaky = VirtualClock(), Flaky(5, TransientError("again"))
    patient = retrier(clock)
    assert patient.call(flaky) == "done"
    assert (flaky.calls, patient.retries) == (6, 5)
    assert 0 < clock.monotonic() < 20


def test_permanent_errors_are_never_repeated() -> None:
    flaky = Flaky(5, SourceError("no"))
    with pytest.raises(SourceError):
        retrier(VirtualClock()).call(flaky)
    assert flaky.calls == 1


def test_patience_ends_and_the_last_error_is_shown() -> None:
    clock, flaky = VirtualClock(), Flaky(10**6, TransientError("still"))
    with pytest.raises(TransientError, match="still"):
        retrier(clock, patience_seconds=60.0).call(flaky)
    assert clock.monotonic() <= 60
    assert flaky.calls < 100


@pytest.mark.fault(24)
def test_the_delay_that_the_peer_names_is_kept() -> None:
    clock = VirtualClock()
    throttled = ThrottledError("slow down", retry_after_seconds=7.0)
    retrier(clock).call(Flaky(1, throttled))
    assert clock.monotonic() >= 7


def test_a_stop_ends_waiting() -> None:
    clock, cancel = VirtualClock(), CancelToken()
    patient = Retrier(RetryPolicy(), clock, cancel, random.Random(1))

    def fails_and_stops() -> None:
        cancel.cancel("test")
        raise TransientError("again")

    with pytest.raises(StoppedError):
        patient.call(fails_and_stops)


@given(
    st.floats(0.5, 1000), st.floats(1, 100), st.lists(st.integers(1, 50), min_size=5, max_size=60)
)
def test_a_bucket_keeps_its_rate(rate: float, burst: float, amounts: list[int]) -> None:
    clock = VirtualClock()
    bucket = TokenBucket(rate, burst, clock)
    for amount in amounts:
        bucket.acquire(amount)
    spent_within = clock.monotonic() * rate + burst
    assert sum(amounts) <= spent_within + 1e-6 * sum(amounts)


@pytest.mark.fault(24)
def test_one_rate_for_all_processes(tmp_path: Path) -> None:
    clock = VirtualClock()
    buckets = [SharedTokenBucket(tmp_path / "puts", 100, 10, clock) for _ in range(4)]
    for number in range(2000):
        buckets[number % 4].acquire(1)
    assert 2000 / 100 - 1 <= clock.monotonic() <= 2000 / 100 + 1
    for bucket in buckets:
        bucket.close()


@pytest.mark.fault(11)
def test_a_shared_rate_of_another_boot_counts_as_nothing(tmp_path: Path) -> None:
    path = tmp_path / "puts"
    path.write_bytes(b"\xff" * 8)
    clock = VirtualClock()
    SharedTokenBucket(path, 10, 1, clock).acquire(1)
    assert clock.monotonic() < 1


class StoppedAtTwo(VirtualClock):
    """Time in which somebody asks to stop after two seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.cancel = CancelToken()

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if self.monotonic() >= 2:
            self.cancel.cancel("test")


def test_a_stop_ends_the_wait_for_bandwidth() -> None:
    clock = StoppedAtTwo()
    with pytest.raises(StoppedError):
        TokenBucket(1, 1, clock, clock.cancel).acquire(500)
    assert clock.monotonic() < 3


def test_a_stop_ends_the_wait_for_a_shared_rate(tmp_path: Path) -> None:
    clock = StoppedAtTwo()
    bucket = SharedTokenBucket(tmp_path / "puts", 1, 1, clock, clock.cancel)
    with pytest.raises(StoppedError):
        bucket.acquire(500)
    assert clock.monotonic() < 3
    bucket.close()


def test_bad_rates_are_refused() -> None:
    with pytest.raises(ValueError, match="rate"):
        TokenBucket(0, 1, VirtualClock())
    Unlimited().acquire(10**12)


class CutOff(MemoryReader):
    """Loses its connection after every second extent."""

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        for number, extent in enumerate(super().extents(start, length), 1):
            yield extent
            if number % 2 == 0:
                raise TransientError("connection lost")


def test_extents_go_on_where_a_connection_was_lost() -> None:
    disk = CutOff.from_text("AB-C-D0-EF", cell_bytes=512)
    whole = list(MemoryReader.from_text("AB-C-D0-EF", cell_bytes=512).extents(0, disk.size))
    assert list(PatientReader(disk, retrier(VirtualClock())).extents(0, disk.size)) == whole
