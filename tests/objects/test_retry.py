"""The retry layer around a store: nothing is done twice, and a lost answer is found again."""

import random
from collections.abc import Callable, Iterator

import pytest

from sealift.errors import (
    IntegrityError,
    ObjectExistsError,
    ObjectMissingError,
    TargetDeniedError,
    ThrottledError,
    TransientError,
)
from sealift.objects import ObjectInfo, ObjectStore
from sealift.objects_retry import PatientStore
from sealift.retry import Retrier, RetryPolicy
from sealift.testing.clock import VirtualClock
from sealift.testing.faults import Fault, Script, tapped
from sealift.testing.object_contracts import ObjectStoreContract, StoreCase, names
from sealift.testing.object_memory import MemoryObjectStore
from tests.conftest import Evidence

PASSING = (
    Fault.FAIL_BEFORE,
    Fault.FAIL_AFTER,
    Fault.TIMEOUT,
    Fault.THROTTLE,
    Fault.THROTTLE_NAMED,
)


def patient(store: ObjectStore) -> PatientStore:
    return PatientStore(store, Retrier(RetryPolicy(), VirtualClock(), rng=random.Random(1)))


class TestPatientStore(ObjectStoreContract):
    @pytest.fixture
    def store_case(self) -> StoreCase:
        clock = VirtualClock()
        store = MemoryObjectStore(clock)
        return StoreCase(lambda: patient(store), lambda: clock.now().timestamp(), clock.sleep)


def work(store: ObjectStore) -> None:
    """Every call of the port, as a repository makes them."""
    store.put("config", b"1", if_absent=True)
    config = store.head("config")
    assert config is not None
    store.put("config", b"2", if_match=config.version)
    for n in range(3):
        store.put(f"packs/{n}", b"pack %d" % n)
    store.put("commits/0001", b"first", if_absent=True, lock_until=0.0)
    assert store.get("packs/1", 1, 3) == b"ack"
    assert names(store) == ["commits/0001", "config", "packs/0", "packs/1", "packs/2"]
    store.extend_lock("packs/0", 0.0)
    store.delete("packs/2")
    assert store.head("packs/2") is None


@pytest.mark.fault(19, 24)
def test_one_passing_fault_at_every_call(evidence: Evidence) -> None:
    """Failed before, failed after taking effect, timed out, throttled: the end is the same."""
    clean = MemoryObjectStore()
    work(clean)
    fired = 0
    for fault in PASSING:
        for at in range(1, 40):
            store, script = MemoryObjectStore(), Script([(at, fault)])
            work(patient(tapped(store, "objects", script)))
            fired += len(script.fired)
            assert {n: o.data for n, o in store.objects.items()} == {
                n: o.data for n, o in clean.objects.items()
            }, (fault, at)
            if script.unexercised:
                break
        else:
            pytest.fail("the history has no end")
    assert fired > 50
    evidence("faults at calls of a store", f"{fired}, unequal: 0")


@pytest.mark.fault(19)
@pytest.mark.parametrize("fault", [Fault.FAIL_AFTER, Fault.TIMEOUT], ids=lambda f: f.name)
def test_the_answer_to_a_won_put_may_be_lost(fault: Fault) -> None:
    """The next attempt meets our own object."""
    for number in (1, 2):  # a time-out takes effect at even numbers
        store = MemoryObjectStore()
        script = Script([(number, fault)])
        far = patient(tapped(store, "objects", script))
        assert far.head("a") is None or number == 1
        info = far.put("a", b"ours", if_absent=True)
        assert script.fired
        assert info.size == 4
        assert store.get("a") == b"ours"
        again = far.put("a", b"next", if_match=info.version)
        assert again.version != info.version


@pytest.mark.fault(19, 22)
def test_the_loser_of_a_race_is_told_so() -> None:
    """Also when its own attempt was not answered: equal length is not enough."""
    store = MemoryObjectStore()

    class Racing(MemoryObjectStore):
        """Another writer wins while our attempt is under way."""

        def put(self, name: str, data: object, **options: object) -> ObjectInfo:
            if name not in store.objects:
                store.put(name, b"theirs")
                raise TransientError("no answer")
            return store.put(name, bytes(data), **options)  # type: ignore[arg-type, call-overload]

        def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
            return store.get(name, start, length)

        def head(self, name: str) -> ObjectInfo | None:
            return store.head(name)

    for data in (b"ours", b"our's!"):
        store.objects.clear()
        with pytest.raises(ObjectExistsError):
            patient(Racing()).put("a", data, if_absent=True)
        assert store.get("a") == b"theirs"


def test_without_a_lost_answer_equal_bytes_are_not_ours() -> None:
    store = MemoryObjectStore()
    store.put("a", b"same")
    with pytest.raises(ObjectExistsError):
        patient(store).put("a", b"same", if_absent=True)


def test_what_is_gone_again_is_not_ours() -> None:
    store = MemoryObjectStore()
    version = store.put("a", b"old").version
    script = Script([(1, Fault.FAIL_AFTER), (2, Fault.FAIL_BEFORE)])

    def vanish(call: object) -> None:
        if len(script.calls) == 2:
            store.objects.pop("a", None)

    script.on_call = vanish
    with pytest.raises(ObjectMissingError):
        patient(tapped(store, "objects", script)).put("a", b"new", if_match=version)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda s: s.get("nothing"), ObjectMissingError),
        (lambda s: s.get("a", 0, 100), IntegrityError),
        (lambda s: s.delete("a"), TargetDeniedError),
        (lambda s: s.put("a", b"", if_absent=True), ObjectExistsError),
    ],
)
def test_what_is_final_is_asked_once(
    call: Callable[[ObjectStore], object], error: type[Exception]
) -> None:
    store, script = MemoryObjectStore(), Script()
    store.put("a", b"1", lock_until=4e9)
    with pytest.raises(error):
        call(patient(tapped(store, "objects", script)))
    assert len(script.calls) == 1


class Torn(MemoryObjectStore):
    """Its lists break off after every second object, and at times right at the start."""

    lists = 0

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        self.lists += 1
        if self.lists % 3 == 0:
            raise ThrottledError("slower")
        for number, info in enumerate(super().list(prefix, after)):
            if number == 2:
                raise TransientError("connection lost")
            yield info


@pytest.mark.fault(21)
def test_a_list_goes_on_where_it_broke_off() -> None:
    store = Torn()
    for n in range(11):
        store.put(f"x/{n:02}", b"")
    assert names(patient(store), "x/") == [f"x/{n:02}" for n in range(11)]
    assert names(patient(store), "x/", "x/07") == ["x/08", "x/09", "x/10"]
    assert store.lists > 6


def test_patience_ends() -> None:
    """With the store's own error, not with another."""

    class Gone(MemoryObjectStore):
        def head(self, name: str) -> ObjectInfo | None:
            raise TransientError("no answer", host="there")

    clock = VirtualClock()
    store = PatientStore(Gone(), Retrier(RetryPolicy(patience_seconds=60), clock))
    with pytest.raises(TransientError, match="no answer"):
        store.head("a")
    assert 20 < clock.monotonic() <= 60


@pytest.mark.parametrize("fault", [Fault.FLIP, Fault.SHORT], ids=lambda f: f.name)
def test_injected_damage_reaches_the_reader_and_nothing_else(fault: Fault) -> None:
    store, script = MemoryObjectStore(), Script([(1, fault)])
    store.put("a", bytes(1000))
    far = tapped(store, "objects", script)
    assert far.get("a") != bytes(1000)
    assert far.get("a") == bytes(1000)


def test_damage_on_the_way_to_the_store_leaves_our_buffer_alone() -> None:
    store, script = MemoryObjectStore(), Script([(1, Fault.FLIP)])
    ours = bytearray(1000)
    tapped(store, "objects", script).put("a", ours)
    assert ours == bytes(1000)
    assert sum(byte.bit_count() for byte in store.get("a")) == 1


@pytest.mark.fault(21)
def test_a_stale_list_is_an_earlier_one() -> None:
    store, script = MemoryObjectStore(), Script([(4, Fault.STALE)])
    far = tapped(store, "objects", script)
    far.put("a", b"")
    assert names(far) == ["a"]
    far.put("b", b"")
    assert names(far) == ["a"]
    assert names(far) == ["a", "b"]
