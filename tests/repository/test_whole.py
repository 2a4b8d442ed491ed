"""Packs in memory: read once, in parts, by all who wait; their buffers are never shared."""

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from sealift.errors import IntegrityError, ObjectMissingError, TransientError
from sealift.repository.whole import PART_BYTES, WholePacks
from sealift.testing.object_memory import MemoryObjectStore
from sealift.units import MiB

SIZE = 2 * PART_BYTES + 5


class Counting(MemoryObjectStore):
    """Counts reads, fails those that are asked for, and may hold back all but ``free`` packs."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, int, int]] = []
        self.failing: set[int] = set()
        self.free: set[str] = set()
        self.entered = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.go_on.set()

    def get_into(self, name: str, start: int, buffer: memoryview) -> None:
        """See ``ObjectStore.get_into``."""
        self.asked.append((name, start, len(buffer)))
        self.entered.release()
        assert name in self.free or self.go_on.wait(120)
        if start in self.failing:
            self.failing.discard(start)
            raise TransientError("injected")
        super().get_into(name, start, buffer)


def stored(*names: str) -> tuple[Counting, dict[str, bytes]]:
    store, data = Counting(), {name: os.urandom(SIZE) for name in names}
    for name, content in data.items():
        store.put(name, content)
    return store, data


@contextmanager
def looking(packs: WholePacks, store: Counting, data: bytes, readers: int) -> Iterator[None]:
    """Readers of the pack "a" who wait for its three parts, and all see it in the end."""
    seen: list[bool] = []
    store.go_on.clear()

    def look() -> None:
        with packs.held("a", SIZE) as whole:
            seen.append(bytes(whole) == data)

    threads = [threading.Thread(target=look) for _ in range(readers)]
    for thread in threads:
        thread.start()
    assert all(store.entered.acquire(timeout=60) for _ in range(3))
    yield
    store.go_on.set()
    for thread in threads:
        thread.join(120)
    assert seen == [True] * readers


def test_a_pack_is_read_once_in_parts() -> None:
    store, data = stored("a")
    packs = WholePacks(store, 2)
    for _ in range(2):
        with packs.held("a", SIZE) as whole:
            assert whole == data["a"]
    assert sorted(store.asked) == [
        ("a", 0, PART_BYTES),
        ("a", PART_BYTES, PART_BYTES),
        ("a", 2 * PART_BYTES, 5),
    ]


def test_all_who_wait_read_it_together() -> None:
    store, data = stored("a")
    with looking(WholePacks(store, 1), store, data["a"], 5):
        pass
    assert len(store.asked) == 3


def test_a_part_that_failed_is_read_by_the_next_one() -> None:
    store, data = stored("a")
    packs = WholePacks(store, 1)
    store.failing = {PART_BYTES}
    with pytest.raises(TransientError), packs.held("a", SIZE):
        pass
    with packs.held("a", SIZE) as whole:
        assert whole == data["a"]
    assert [start for _, start, _ in store.asked] == [0, PART_BYTES, PART_BYTES, 2 * PART_BYTES]


def test_what_somebody_looks_at_is_not_used_for_another_pack() -> None:
    """Whatever else is read meanwhile, and however little is kept."""
    names = [f"p{n}" for n in range(6)]
    store, data = stored(*names)
    packs = WholePacks(store, 1)
    with ExitStack() as stack:
        held = {name: stack.enter_context(packs.held(name, SIZE)) for name in names}
        assert all(held[name] == data[name] for name in names)
        packs.drop()
        assert all(held[name] == data[name] for name in names)
    with packs.held("p0", SIZE) as whole:
        assert whole == data["p0"]


def test_memory_is_used_again() -> None:
    store, data = stored("a", "b", "c")
    packs = WholePacks(store, 1)
    memory: dict[int, object] = {}
    for name in "abcabc":
        with packs.held(name, SIZE) as whole:
            assert whole == data[name]
            memory[id(whole.obj)] = whole.obj
    assert len(memory) <= 2


def test_what_is_gone_or_shorter_is_told() -> None:
    store, _ = stored("a")
    packs = WholePacks(store, 1)
    with pytest.raises(ObjectMissingError), packs.held("b", MiB):
        pass
    with pytest.raises(IntegrityError), packs.held("a", SIZE + 1):
        pass


def test_parts_are_read_ahead_one_at_a_time() -> None:
    store, data = stored("a")
    packs = WholePacks(store, 1)
    assert [packs.read_ahead("a", SIZE) for _ in range(4)] == [True, True, True, False]
    assert len(store.asked) == 3
    with packs.held("a", SIZE) as whole:
        assert whole == data["a"]
    assert len(store.asked) == 3


def test_a_part_that_could_not_be_read_ahead_is_read_by_who_wants_it() -> None:
    store, data = stored("a")
    packs = WholePacks(store, 1)
    store.failing = {0}
    with pytest.raises(TransientError):
        packs.read_ahead("a", SIZE)
    with packs.held("a", SIZE) as whole:
        assert whole == data["a"]
    assert [start for _, start, _ in store.asked] == [0, 0, PART_BYTES, 2 * PART_BYTES]


def test_who_reads_ahead_waits_for_nobody() -> None:
    store, data = stored("a")
    packs = WholePacks(store, 1)
    with looking(packs, store, data["a"], 3):
        assert not packs.read_ahead("a", SIZE)


def test_memory_that_is_read_ahead_into_goes_to_no_other_pack() -> None:
    """Not even when the pack is pushed out meanwhile."""
    store, data = stored("a", "b")
    packs = WholePacks(store, 1)
    store.go_on.clear()
    ahead = threading.Thread(target=packs.read_ahead, args=("a", SIZE))
    ahead.start()
    assert store.entered.acquire(timeout=60)
    store.free = {"b"}
    with packs.held("b", SIZE) as whole:
        store.go_on.set()
        ahead.join(120)
        assert whole == data["b"]
