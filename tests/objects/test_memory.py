"""The stores in memory keep the contract."""

import pytest

from sealift.testing.clock import VirtualClock
from sealift.testing.object_contracts import ObjectStoreContract, StoreCase, names
from sealift.testing.object_memory import LaggingObjectStore, MemoryObjectStore


class TestMemory(ObjectStoreContract):
    @pytest.fixture
    def store_case(self) -> StoreCase:
        clock = VirtualClock()
        store = MemoryObjectStore(clock)
        return StoreCase(lambda: store, lambda: clock.now().timestamp(), clock.sleep)


class TestLaggingWithoutLag(ObjectStoreContract):
    @pytest.fixture
    def store_case(self) -> StoreCase:
        clock = VirtualClock()
        store = LaggingObjectStore(MemoryObjectStore(clock), clock, 0.0)
        return StoreCase(lambda: store, lambda: clock.now().timestamp(), clock.sleep)


@pytest.mark.fault(21)
def test_lists_lag_and_reads_do_not() -> None:
    clock = VirtualClock()
    store = LaggingObjectStore(MemoryObjectStore(clock), clock, 10.0)
    store.put("a", b"1")
    assert names(store) == []
    assert store.get("a") == b"1"
    clock.sleep(11)
    assert names(store) == ["a"]
    store.delete("a")
    assert names(store) == ["a"]
    assert store.head("a") is None
    clock.sleep(11)
    assert names(store) == []


def test_what_was_there_before_is_listed() -> None:
    clock = VirtualClock()
    inner = MemoryObjectStore(clock)
    inner.put("old", b"1")
    assert names(LaggingObjectStore(inner, clock, 10.0)) == ["old"]
