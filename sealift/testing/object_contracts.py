# ruff: noqa: S101 - these are tests that other packages run
"""The docstrings of ``sealift.objects`` as tests, for every object store.

Use: subclass in a test module and provide the fixture ``store_case``::

    class TestFolder(ObjectStoreContract):
        @pytest.fixture
        def store_case(self, tmp_path: Path) -> StoreCase: ...

Needs pytest, which the package itself does not.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import pytest

from sealift.errors import (
    IntegrityError,
    ObjectExistsError,
    ObjectMissingError,
    SealiftError,
    TargetDeniedError,
    TargetError,
)
from sealift.objects import MAX_NAME_BYTES, ObjectStore
from sealift.testing.contracts import pattern, ranges
from sealift.units import MiB

BAD_NAMES = (
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "../a",
    "a/../../b",
    "a/..",
    ".hidden",
    "a/.tmp",
    "A",
    "a b",
    "a\nb",
    "a\0b",
    "a\\b",
    "ä",
    "a\u202eb",
    "\x1b[2J",
    "%2e%2e/a",
    "a:b",
    "x" * (MAX_NAME_BYTES + 1),
)


@dataclass(frozen=True, slots=True)
class StoreCase:
    """One place for objects, empty at first.

    Attributes:
        open: opens it; each time for another process.
        now: the store's clock in seconds since 1970, for locks.
        pass_time: moves that clock; None where only waiting does.
        longest_put: bytes of the largest object that the suite puts.
    """

    open: Callable[[], ObjectStore]
    now: Callable[[], float] | None = None
    pass_time: Callable[[float], None] | None = None
    longest_put: int = 5 * MiB


def names(store: ObjectStore, prefix: str = "", after: str = "") -> list[str]:
    """What a list says."""
    return [info.name for info in store.list(prefix, after)]


class ObjectStoreContract:
    """What ``ObjectStore`` promises."""

    @pytest.fixture
    def store(self, store_case: StoreCase) -> Iterator[ObjectStore]:
        """The store, opened; closed afterwards."""
        with closing(store_case.open()) as store:
            yield store

    def test_says_what_it_can(self, store: ObjectStore) -> None:
        """And which place it is."""
        assert store.identity
        assert store.caps.concurrency >= 1
        assert store.caps.max_object_bytes >= 64 * MiB

    def test_what_was_put_is_read(self, store: ObjectStore, store_case: StoreCase) -> None:
        """Of every size, from any kind of buffer, by another process too."""
        sizes = (0, 1, 511, 4096, 100_001, store_case.longest_put)
        for kind in (bytes, bytearray, memoryview):
            for size in sizes:
                store.put(f"size/{size}", kind(pattern(size)))
                assert store.get(f"size/{size}") == pattern(size), (kind, size)
        with closing(store_case.open()) as other:
            for size in sizes:
                assert other.get(f"size/{size}") == pattern(size)

    def test_a_view_of_anything_is_bytes(self, store: ObjectStore) -> None:
        """Part of a buffer, writable or not."""
        buffer = bytearray(pattern(1000))
        store.put("a", memoryview(buffer)[100:300])
        store.put("b", memoryview(bytes(buffer))[100:300])
        assert store.get("a") == store.get("b") == pattern(1000)[100:300]

    def test_the_buffer_is_ours_again(self, store: ObjectStore) -> None:
        """What changes in it after the put is not stored."""
        buffer = bytearray(pattern(100_000))
        store.put("a", buffer)
        buffer[:] = bytes(100_000)
        assert store.get("a") == pattern(100_000)

    def test_any_range_is_read(self, store: ObjectStore) -> None:
        """To the byte."""
        data = pattern(70_001)
        store.put("a", data)
        for start, length in ranges(len(data)):
            assert store.get("a", start, length) == data[start : start + length], (start, length)
            assert store.get("a", start) == data[start:], start

    def test_a_range_is_read_into_memory(self, store: ObjectStore) -> None:
        """As a get of it is, and nothing beside it is touched; never short."""
        data = pattern(70_001)
        store.put("a", data)
        for start, length in ranges(len(data)):
            memory = bytearray(b"x" * (length + 2))
            store.get_into("a", start, memoryview(memory)[1:-1])
            assert memory == b"x" + data[start : start + length] + b"x", (start, length)
        for start, length in [(0, 70_002), (70_000, 2), (70_001, 1)]:
            with pytest.raises(IntegrityError):
                store.get_into("a", start, memoryview(bytearray(length)))
        for start, length in [(0, 0), (-1, 1)]:
            with pytest.raises(ValueError, match="range"):
                store.get_into("a", start, memoryview(bytearray(length)))
        with pytest.raises(ObjectMissingError, match="nothing-here"):
            store.get_into("nothing-here", 0, memoryview(bytearray(5)))

    def test_a_range_past_the_end_is_refused(self, store: ObjectStore) -> None:
        """Never short: whoever asks knows from an index how long the object must be."""
        store.put("a", b"0123456789")
        for start, length in [(0, 11), (5, 6), (9, 2), (10, 1), (10, None), (11, None), (11, 1)]:
            with pytest.raises(IntegrityError):
                store.get("a", start, length)
        store.put("empty", b"")
        with pytest.raises(IntegrityError):
            store.get("empty", 0, 1)

    @pytest.mark.parametrize(("start", "length"), [(-1, 1), (0, 0), (0, -1), (-1, None)])
    def test_what_is_no_range_is_refused(
        self, store: ObjectStore, start: int, length: int | None
    ) -> None:
        """Before anything is asked."""
        store.put("a", b"0123456789")
        with pytest.raises(ValueError, match="range"):
            store.get("a", start, length)

    def test_what_is_missing_is_named(self, store: ObjectStore) -> None:
        """By every call; a delete does not mind."""
        with pytest.raises(ObjectMissingError, match="nothing-here"):
            store.get("nothing-here")
        with pytest.raises(ObjectMissingError):
            store.get("nothing-here", 5, 5)
        assert store.head("nothing-here") is None
        store.delete("nothing-here")
        store.delete("part/nothing-here")

    def test_head_says_size_and_version(self, store: ObjectStore) -> None:
        """The same as the put and the list."""
        put = store.put("some/name", pattern(12345))
        head = store.head("some/name")
        (listed,) = store.list("some/")
        assert head is not None
        assert put.name == head.name == listed.name == "some/name"
        assert put.size == head.size == listed.size == 12345
        assert put.version == head.version == listed.version != ""

    def test_a_replacement_is_another_version(self, store: ObjectStore) -> None:
        """Old bytes or new bytes, and the list has the name once."""
        first = store.put("a", b"first")
        second = store.put("a", b"second")
        assert first.version != second.version
        assert store.get("a") == b"second"
        assert names(store) == ["a"]

    def test_a_put_if_absent_wins_once(self, store: ObjectStore) -> None:
        """The object that is there stays as it is."""
        if not store.caps.conditional_put:
            pytest.skip("this store has no conditional put")
        first = store.put("a", b"first", if_absent=True)
        for data in (b"second", b"first", b""):
            with pytest.raises(ObjectExistsError):
                store.put("a", data, if_absent=True)
        assert store.get("a") == b"first"
        found = store.head("a")
        assert found is not None
        assert found.version == first.version
        store.delete("a")
        store.put("a", b"third", if_absent=True)
        assert store.get("a") == b"third"

    def test_one_of_many_writers_wins(self, store: ObjectStore, store_case: StoreCase) -> None:
        """The commit log rests on this."""
        if not store.caps.conditional_put:
            pytest.skip("this store has no conditional put")
        for turn in range(10):
            winners = self._race(store_case, _absent(f"race/{turn}"))
            assert len(winners) == 1
            assert store.get(f"race/{turn}") == b"%d" % winners[0]

    def test_one_of_many_replacers_wins(self, store: ObjectStore, store_case: StoreCase) -> None:
        """The one that the object then holds."""
        if not store.caps.conditional_replace:
            pytest.skip("this store has no conditional replacement")
        for turn in range(10):
            seen = store.put("race", b"before %d" % turn).version
            winners = self._race(store_case, _match("race", seen))
            assert len(winners) == 1
            assert store.get("race") == b"%d" % winners[0]

    def _race(
        self, case: StoreCase, attempt: Callable[[ObjectStore, int], bool], writers: int = 6
    ) -> list[int]:
        """Numbers of the writers that say that they won; all begin at once."""
        gate = threading.Barrier(writers)

        def one(number: int) -> bool:
            with closing(case.open()) as store:
                gate.wait()
                return attempt(store, number)

        with ThreadPoolExecutor(writers) as threads:
            return [n for n, won in enumerate(threads.map(one, range(writers))) if won]

    def test_a_put_if_match_replaces_that_version_only(self, store: ObjectStore) -> None:
        """Not an older one, and not nothing."""
        if not store.caps.conditional_replace:
            pytest.skip("this store has no conditional replacement")
        first = store.put("a", b"first")
        second = store.put("a", b"second", if_match=first.version)
        with pytest.raises(ObjectExistsError):
            store.put("a", b"third", if_match=first.version)
        assert store.get("a") == b"second"
        store.put("a", b"third", if_match=second.version)
        store.delete("a")
        with pytest.raises((ObjectMissingError, ObjectExistsError)):
            store.put("a", b"fourth", if_match=second.version)
        assert store.head("a") is None

    def test_a_version_never_comes_back(self, store: ObjectStore) -> None:
        """With other bytes of the same length, or after a delete, quickly one after the other."""
        if not store.caps.conditional_replace:
            pytest.skip("this store has no conditional replacement")
        seen = []
        for turn in range(20):
            seen.append(store.put("a", b"%03d" % turn).version)
            if turn % 5 == 4:
                store.delete("a")
        assert len(set(seen)) == 20

    def test_both_conditions_are_refused(self, store: ObjectStore) -> None:
        """They exclude each other."""
        with pytest.raises(ValueError, match="exclude"):
            store.put("a", b"", if_absent=True, if_match="x")

    def test_lists_are_sorted_and_whole(self, store: ObjectStore) -> None:
        """By bytes of the whole name, where ``-`` and ``.`` come before ``/``."""
        given = ["a-b", "a.b", "a/b-c", "a/b/c", "a/b0", "a0", "b/1", "b/2", "ba", "c_d"]
        for name in reversed(given):
            store.put(name, name.encode())
        assert names(store) == sorted(given)
        assert names(store, "a") == sorted(n for n in given if n.startswith("a"))
        assert names(store, "a/b") == ["a/b-c", "a/b/c", "a/b0"]
        assert names(store, "a/") == ["a/b-c", "a/b/c", "a/b0"]
        assert names(store, "a/b/") == ["a/b/c"]
        assert names(store, "b/") == ["b/1", "b/2"]
        assert names(store, "b/1/") == []
        assert names(store, "nothing/") == []
        for after in [*given, "a/a", "zzz", "a/b/"]:
            assert names(store, "", after) == sorted(n for n in given if n > after), after
        assert names(store, "a", "a/b-c") == ["a/b/c", "a/b0", "a0"]

    def test_many_are_listed_page_by_page(self, store: ObjectStore) -> None:
        """Each once; a list may be left half way."""
        given = [f"many/{n:04x}" for n in range(1205)]
        with ThreadPoolExecutor(store.caps.concurrency) as threads:
            list(threads.map(lambda name: store.put(name, b"x"), given))
        assert names(store, "many/") == given
        walk = store.list("many/")
        assert [next(walk).name for _ in range(3)] == given[:3]
        del walk
        assert names(store, "many/", given[1100]) == given[1101:]

    def test_a_deleted_object_is_gone(self, store: ObjectStore) -> None:
        """And may be deleted again."""
        store.put("x/a", b"1")
        store.put("x/b", b"2")
        store.delete("x/a")
        store.delete("x/a")
        assert store.head("x/a") is None
        with pytest.raises(ObjectMissingError):
            store.get("x/a")
        assert names(store) == ["x/b"]

    @pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
    def test_what_is_no_name_is_refused(self, store: ObjectStore, name: str) -> None:
        """Before anything is asked: no name leads out of the place."""
        calls: list[Callable[[], object]] = [
            lambda: store.put(name, b"x"),
            lambda: store.get(name),
            lambda: store.head(name),
            lambda: store.delete(name),
        ]
        for call in calls:
            with pytest.raises(ValueError, match="name of an object"):
                call()

    def test_long_names_are_taken(self, store: ObjectStore) -> None:
        """Of the longest part and of many parts."""
        for name in ("n" * MAX_NAME_BYTES, "/".join("0123456789"), "_a-b.c/0_1-2.3"):
            store.put(name, name.encode())
            assert store.get(name) == name.encode()
            assert names(store, name[:-1]) == [name]

    def test_readers_see_old_or_new(self, store: ObjectStore, store_case: StoreCase) -> None:
        """Never a part of either, never neither."""
        versions = [bytes([65 + n]) * 200_000 for n in range(4)]
        store.put("a", versions[0])
        done = threading.Event()
        seen: set[bytes] = set()

        def read() -> None:
            with closing(store_case.open()) as reader:
                while not done.is_set():
                    seen.add(reader.get("a"))

        thread = threading.Thread(target=read)
        thread.start()
        for turn in range(24):
            store.put("a", versions[turn % 4])
        done.set()
        thread.join()
        assert seen
        assert seen <= set(versions)

    def test_many_threads_at_once(self, store: ObjectStore) -> None:
        """No thread reads another's object."""

        def one(number: int) -> bool:
            data = pattern(10_000 + number)
            store.put(f"t/{number}", data)
            return (
                store.get(f"t/{number}") == data
                and store.get(f"t/{number}", 77, 99) == (data[77 : 77 + 99])
            )

        with ThreadPoolExecutor(2 * store.caps.concurrency) as threads:
            assert all(threads.map(one, range(64)))

    def test_too_much_is_refused(self, store: ObjectStore) -> None:
        """Before it is sent."""
        if store.caps.max_object_bytes > 256 * MiB:
            pytest.skip("takes more than a test should make")
        with pytest.raises(TargetError):
            store.put("a", bytes(store.caps.max_object_bytes + 1))
        assert store.head("a") is None

    def test_close_may_be_repeated(self, store_case: StoreCase) -> None:
        """Also after other calls."""
        store = store_case.open()
        store.put("a", b"1")
        store.close()
        store.close()

    # ------------------------------------------------------------------ locks

    def test_without_locks_they_are_refused(self, store: ObjectStore) -> None:
        """Aloud: whoever asks for a lock relies on it."""
        if store.caps.object_lock:
            pytest.skip("this store has locks")
        store.put("a", b"1")
        with pytest.raises(TargetError):
            store.extend_lock("a", 4e9)
        with pytest.raises(TargetError):
            store.put("b", b"1", lock_until=4e9)
        assert store.head("b") is None

    def test_a_locked_object_survives(self, store: ObjectStore, store_case: StoreCase) -> None:
        """A delete is refused; what replaces it in a versioned store only hides it."""
        if store_case.now is None or not store.caps.object_lock:
            pytest.skip("this store has no locks")
        store.put("a", b"locked", lock_until=store_case.now() + 1000)
        store.put("b", b"locked later")
        store.extend_lock("b", store_case.now() + 1000)
        for name in ("a", "b"):
            with pytest.raises(TargetDeniedError):
                store.delete(name)
        if not store.caps.versioned:
            with pytest.raises(SealiftError):
                store.put("a", b"other")
        assert store.get("a") == b"locked"
        assert names(store) == ["a", "b"]

    def test_a_lock_is_never_shortened(self, store: ObjectStore, store_case: StoreCase) -> None:
        """The later of both times holds."""
        if store_case.now is None or store_case.pass_time is None or store.caps.versioned:
            pytest.skip("needs a store whose clock can be moved")
        now = store_case.now()
        store.put("a", b"locked", lock_until=now + 100)
        store.extend_lock("a", now + 1000)
        store.extend_lock("a", now + 10)
        store_case.pass_time(500)
        with pytest.raises(TargetDeniedError):
            store.delete("a")
        store_case.pass_time(600)
        store.delete("a")
        assert store.head("a") is None

    def test_what_is_missing_cannot_be_locked(self, store: ObjectStore) -> None:
        """A reused chunk may be gone: whoever extends its lock has to know."""
        if not store.caps.object_lock:
            pytest.skip("this store has no locks")
        with pytest.raises(ObjectMissingError):
            store.extend_lock("nothing-here", 4e9)


def _absent(name: str) -> Callable[[ObjectStore, int], bool]:
    def attempt(store: ObjectStore, number: int) -> bool:
        try:
            store.put(name, b"%d" % number, if_absent=True)
        except ObjectExistsError:
            return False
        return True

    return attempt


def _match(name: str, version: str) -> Callable[[ObjectStore, int], bool]:
    def attempt(store: ObjectStore, number: int) -> bool:
        try:
            store.put(name, b"%d" % number, if_match=version)
        except ObjectExistsError:
            return False
        return True

    return attempt
