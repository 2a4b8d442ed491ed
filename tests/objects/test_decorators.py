"""Limits and observers around a store: the contract holds, and each does what it says."""

import logging
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from sealift.cancel import CancelToken
from sealift.clock import Clock, SystemClock
from sealift.errors import ObjectMissingError, StoppedError, ThrottledError, TransientError
from sealift.objects import ObjectInfo, ObjectStore
from sealift.objects_decorator import StoreDecorator
from sealift.objects_limit import LimitedStore, PacedStore
from sealift.objects_observe import CallCounter, CallLog, ObservedStore
from sealift.objects_retry import PatientStore
from sealift.ratelimit import TokenBucket
from sealift.retry import Retrier, RetryPolicy
from sealift.testing.clock import VirtualClock
from sealift.testing.object_contracts import ObjectStoreContract, StoreCase, names
from sealift.testing.object_memory import MemoryObjectStore
from tests.conftest import Evidence

WRAPPERS: dict[str, Callable[[ObjectStore, Clock], ObjectStore]] = {
    "nothing": lambda store, _: StoreDecorator(store),
    "limited": lambda store, clock: LimitedStore(
        store,
        calls=TokenBucket(1e6, 1e6, clock),
        sent=TokenBucket(1e9, 1e9, clock),
        received=TokenBucket(1e9, 1e9, clock),
    ),
    "paced": lambda store, clock: PacedStore(store, clock),
    "observed": lambda store, clock: ObservedStore(store, CallCounter(), clock),
}


class TestDecorated(ObjectStoreContract):
    @pytest.fixture(params=WRAPPERS)
    def store_case(self, request: pytest.FixtureRequest) -> StoreCase:
        clock = VirtualClock()
        store = MemoryObjectStore(clock)
        wrap = WRAPPERS[request.param]
        return StoreCase(lambda: wrap(store, clock), lambda: clock.now().timestamp(), clock.sleep)


def test_bytes_and_calls_wait_for_their_rate() -> None:
    clock = VirtualClock()
    store = LimitedStore(
        MemoryObjectStore(clock),
        sent=TokenBucket(1000, 1000, clock),
        received=TokenBucket(500, 500, clock),
        calls=TokenBucket(100, 1, clock),
    )
    for n in range(11):
        store.put(f"a/{n}", bytes(1000))
    assert 10 <= clock.monotonic() <= 10.2
    began = clock.monotonic()
    for _ in range(6):
        assert store.get("a/1", 0, 250) == bytes(250)
        assert store.get("a/2") == bytes(1000)
    assert 13 <= clock.monotonic() - began <= 15.1
    began = clock.monotonic()
    for _ in range(201):
        store.head("a/1")
    assert 1.9 <= clock.monotonic() - began <= 2.1


class Busy(MemoryObjectStore):
    """Takes so many calls a second and refuses the others, as a bucket's prefix does."""

    def __init__(self, rate: float, clock: Clock) -> None:
        super().__init__()
        self._bucket, self._rate, self._at, self._of = rate, rate, clock.monotonic(), clock
        self._gate = threading.Lock()
        self.asked = 0
        self.named: float | None = None

    def head(self, name: str) -> ObjectInfo | None:
        with self._gate:
            self.asked += 1
            now = self._of.monotonic()
            self._bucket = min(self._rate, self._bucket + (now - self._at) * self._rate)
            self._at = now
            if self._bucket < 1:
                raise ThrottledError("SlowDown", retry_after_seconds=self.named)
            self._bucket -= 1
        return None


@pytest.mark.fault(24)
@pytest.mark.parametrize("rate", [5, 50, 1000])
def test_a_storm_is_not_made_worse(rate: float, evidence: Evidence) -> None:
    """At most 1.1 requests for a call, whatever the store's limit; and near that limit."""
    clock = VirtualClock()
    busy = Busy(rate, clock)
    paced = PacedStore(busy, clock)
    store = PatientStore(paced, Retrier(RetryPolicy(), clock, rng=random.Random(1)))
    calls = int(rate * 60)
    for _ in range(calls):
        store.head("a")
        clock.sleep(0.0001)
    assert busy.asked / calls <= 1.1
    assert 55 <= clock.monotonic() <= 90
    evidence(f"requests for a call at {rate:g} a second", f"{busy.asked / calls:.3f}")


@pytest.mark.fault(24)
def test_a_storm_of_threads_is_not_made_worse(evidence: Evidence) -> None:
    clock = SystemClock()
    busy = Busy(200, clock)
    paced = PacedStore(busy, clock)
    policy = RetryPolicy(first_seconds=0.05, longest_seconds=1.0)
    store = PatientStore(paced, Retrier(policy, clock, rng=random.Random(1)))
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: store.head("a"), range(800)))
    assert busy.asked <= 1000  # 1,355 without the pace; a busy machine delays threads
    evidence("requests for 800 calls of 8 throttled threads", str(busy.asked))


@pytest.mark.fault(24)
def test_the_delay_that_a_store_names_holds_for_all() -> None:
    clock = VirtualClock()
    busy = Busy(1, clock)
    store = PacedStore(busy, clock)
    store.head("a")
    busy.named = 30.0
    with pytest.raises(ThrottledError):
        store.head("a")
    began = clock.monotonic()
    store.head("a")
    assert clock.monotonic() - began >= 30


def test_a_limit_is_forgotten_after_a_while() -> None:
    clock = VirtualClock()
    busy = Busy(10, clock)
    store = PacedStore(busy, clock)
    for _ in range(10):
        store.head("a")
    with pytest.raises(ThrottledError):
        store.head("a")
    clock.sleep(301)
    busy._rate = busy._bucket = 1e9
    began = clock.monotonic()
    for _ in range(1000):
        store.head("a")
    assert clock.monotonic() == began


def test_a_stop_ends_a_wait() -> None:
    clock, cancel = VirtualClock(), CancelToken()
    busy = Busy(1, clock)
    busy.named = 1000.0
    store = PacedStore(busy, clock, cancel)
    store.head("a")
    with pytest.raises(ThrottledError):
        store.head("a")
    cancel.cancel("SIGTERM")
    with pytest.raises(StoppedError):
        store.head("a")
    assert clock.monotonic() < 10


def test_calls_bytes_and_errors_are_counted() -> None:
    clock, counter = VirtualClock(), CallCounter()

    class Failing(MemoryObjectStore):
        def delete(self, name: str) -> None:
            clock.sleep(2)
            raise TransientError("no answer")

    store = ObservedStore(Failing(clock), counter, clock)
    store.put("a", bytes(100))
    store.put("b", bytes(50), if_absent=True)
    assert len(store.get("a")) + len(store.get("a", 10, 20)) == 120
    with pytest.raises(ObjectMissingError):
        store.get("c")
    with pytest.raises(TransientError):
        store.delete("a")
    assert names(store) == ["a", "b"]
    assert counter.calls == {"put": 2, "get": 3, "delete": 1, "list": 1}
    assert (counter.sent_bytes, counter.received_bytes) == (150, 120)
    assert counter.errors == {("get", "object-missing"): 1, ("delete", "transient"): 1}
    assert counter.seconds["delete"] == 2


def test_the_log_has_names_and_sizes_and_no_content(caplog: pytest.LogCaptureFixture) -> None:
    clock = VirtualClock()
    store = ObservedStore(MemoryObjectStore(clock), CallLog(), clock)
    with caplog.at_level(logging.DEBUG, "sealift.objects_observe"):
        store.put("packs/ab", b"PRECIOUS" * 10)
        store.get("packs/ab")
        with pytest.raises(ObjectMissingError):
            store.get("gone")
    assert [r.getMessage().rpartition(",")[0] for r in caplog.records] == [
        "put packs/ab: ok, 80 bytes",
        "get packs/ab: ok, 80 bytes",
        "get gone: object-missing, 0 bytes",
    ]
    assert [r.levelname for r in caplog.records] == ["DEBUG", "DEBUG", "WARNING"]
    assert "PRECIOUS" not in caplog.text
