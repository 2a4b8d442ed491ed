"""The check of a store finds what a store does not keep, and leaves nothing behind."""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from connectors.local.object_folder import FolderObjectStore
from sealift.clock import SystemClock
from sealift.errors import CredentialsError, TargetDeniedError
from sealift.objects import Bytes, ObjectInfo, ObjectStore
from sealift.objects_check import CheckOptions, Finding, StoreCheck, Verdict
from sealift.retry import Retrier, RetryPolicy
from sealift.testing.clock import VirtualClock
from sealift.testing.faults import Fault, Script, tapped
from sealift.testing.object_memory import ALL_CAPS, MemoryObjectStore
from sealift.units import KiB, MiB
from tests.conftest import Evidence
from tests.objects.conftest import OpenBucket

QUICK = CheckOptions(pack_bytes=MiB, listed=30)
Put = Callable[..., ObjectInfo]


def checked(
    store: ObjectStore, clock: VirtualClock | SystemClock, options: CheckOptions = QUICK
) -> tuple[StoreCheck, dict[str, Finding]]:
    retrier = Retrier(RetryPolicy(), clock, rng=random.Random(1))
    check = StoreCheck(store, retrier, clock, random.Random(2), options)
    return check, {finding.capability: finding for finding in check.run()}


def test_an_honest_store_is_good_and_left_as_it_was() -> None:
    clock = VirtualClock()
    store = MemoryObjectStore(clock)
    store.put("config", b"precious")
    check, found = checked(store, clock)
    assert check.verdict is Verdict.GOOD, found
    assert check.caps == store.caps
    assert {f.verdict for f in found.values()} <= {Verdict.GOOD, Verdict.NOTE}
    assert store.get("config") == b"precious"
    locked = {name.rpartition("/")[2] for name in store.objects}
    assert locked == {"config", "locked", "locked-later"}
    assert "2 objects" in found["removal"].seen


# ---------------------------------------------------------------------- planted


class Truncating(MemoryObjectStore):
    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        return super().get(name, start, length)[: 64 * 1024]


class OffByOne(MemoryObjectStore):
    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        data = super().get(name)
        return data[start : start + length + 1] if length else data[start:]


class PastTheEnd(MemoryObjectStore):
    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        return super().get(name)[start:][:length]


class Stale(MemoryObjectStore):
    """Reads show the object before the last one."""

    before: dict[str, bytes]

    def _stored(self, name: str, data: bytes, locked_until: float) -> ObjectInfo:
        self.before = getattr(self, "before", {})
        if name in self.objects:
            self.before[name] = self.objects[name].data
        return super()._stored(name, data, locked_until)

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        if name.endswith("fresh") and name in self.before:
            return self.before[name]
        return super().get(name, start, length)


class Torn(MemoryObjectStore):
    """A reader may see half of the old and half of the new."""

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        data = super().get(name, start, length)
        if name.endswith("whole"):
            return data[: len(data) // 2] + b"-" * (len(data) - len(data) // 2)
        return data


class Undead(MemoryObjectStore):
    def delete(self, name: str) -> None:
        if "deleted" not in name:
            super().delete(name)


class Forgetful(MemoryObjectStore):
    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        yield from list(super().list(prefix, after))[1:]


class Fuzzy(MemoryObjectStore):
    """Cuts names, as a file system with short ones does."""

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        data = super().get(name, start, length)
        return b"other" if "nnnn" in name else data


class Slow(MemoryObjectStore):
    """An hour behind."""

    def head(self, name: str) -> ObjectInfo | None:
        found = super().head(name)
        return replace(found, modified=(found.modified or 0) - 3600) if found else None


class Unlocked(MemoryObjectStore):
    def _check_unlocked(self, found: object) -> None: ...


class Denying(MemoryObjectStore):
    def delete(self, name: str) -> None:
        raise TargetDeniedError("s3:DeleteObject: permission denied")


def without(**caps: bool) -> Callable[[VirtualClock], MemoryObjectStore]:
    """A server that ignores conditions and says that it keeps them."""

    class Ignoring(MemoryObjectStore):
        def _check_condition(self, *arguments: object) -> None:
            self.caps = replace(ALL_CAPS, **caps)
            try:
                super()._check_condition(*arguments)  # type: ignore[arg-type]
            finally:
                self.caps = ALL_CAPS

    return Ignoring


FOUND: set[str] = set()
BAD, DEGRADED, NOTE = Verdict.BAD, Verdict.DEGRADED, Verdict.NOTE
PLANTED: dict[str, tuple[Callable[[VirtualClock], MemoryObjectStore], str, Verdict]] = {
    "truncates": (Truncating, "write and read", BAD),
    "reads one byte more": (OffByOne, "ranges", BAD),
    "reads past the end": (PastTheEnd, "ranges", BAD),
    "reads what was replaced": (Stale, "read after write", BAD),
    "shows halves": (Torn, "whole or nothing", BAD),
    "ignores If-None-Match": (without(conditional_put=False), "one creator wins", BAD),
    "ignores If-Match": (without(conditional_replace=False), "one replacer wins", NOTE),
    "does not delete": (Undead, "delete", BAD),
    "forgets in lists": (Forgetful, "lists", DEGRADED),
    "mixes names up": (Fuzzy, "names", BAD),
    "has another time": (Slow, "clock", DEGRADED),
    "has locks in name only": (Unlocked, "locks", BAD),
    "denies deletes": (Denying, "delete", NOTE),
}


@pytest.mark.fault(12, 18, 20, 21, 22)
@pytest.mark.parametrize("defect", PLANTED)
def test_a_planted_defect_is_found_and_nothing_else(defect: str, evidence: Evidence) -> None:
    kind, capability, verdict = PLANTED[defect]
    clock = VirtualClock()
    check, found = checked(kind(clock), clock)
    assert found[capability].verdict is verdict, found
    others = {f.capability for f in found.values() if f.verdict in (BAD, DEGRADED)}
    assert others <= {capability}
    assert check.verdict is (Verdict.GOOD if verdict is NOTE else verdict)
    if verdict is DEGRADED:
        assert found[capability].next_step
    FOUND.add(defect)
    evidence("planted defects of stores", f"{len(PLANTED)}, found: {len(FOUND)}")


@pytest.mark.fault(22)
def test_caps_are_what_was_found() -> None:
    clock = VirtualClock()
    check, _ = checked(without(conditional_put=False, conditional_replace=False)(clock), clock)
    assert not check.caps.conditional_put
    assert not check.caps.conditional_replace
    assert check.caps.object_lock


@pytest.mark.fault(24)
def test_a_passing_fault_is_no_finding() -> None:
    """Throttled and unanswered calls are repeated, in the races too."""
    for fault in (Fault.THROTTLE, Fault.FAIL_AFTER, Fault.TIMEOUT):
        for at in range(1, 130, 13):
            clock = VirtualClock()
            script = Script([(at, fault)])
            store = tapped(MemoryObjectStore(clock), "objects", script)
            check, found = checked(store, clock, CheckOptions(64 * KiB, listed=10))
            assert script.fired
            assert check.verdict is Verdict.GOOD, (fault, at, found)


@pytest.mark.fault(23)
def test_credentials_that_expire_are_said_and_the_check_goes_to_its_end() -> None:
    clock = VirtualClock()
    script = Script([(30, Fault.CREDENTIALS)])
    check, found = checked(tapped(MemoryObjectStore(clock), "objects", script), clock)
    assert check.verdict is Verdict.BAD
    assert "expired" in found["read after write"].seen
    assert "could not be removed" in found["removal"].seen


def test_a_store_that_cannot_be_written_ends_the_check() -> None:
    class Refusing(MemoryObjectStore):
        def put(self, name: str, data: Bytes, **_: object) -> ObjectInfo:
            raise CredentialsError("no credentials", next_step="renew them")

    clock = VirtualClock()
    check, found = checked(Refusing(clock), clock)
    assert list(found) == ["write and read"]
    assert found["write and read"].next_step == "renew them"
    assert check.verdict is Verdict.BAD


# ---------------------------------------------------------------------- real ones


def test_a_folder_is_good(tmp_path: Path) -> None:
    store = FolderObjectStore.open(tmp_path / "store", create=True)
    check, found = checked(store, SystemClock(), CheckOptions(listed=200))
    assert check.verdict is Verdict.GOOD, found
    assert [info.name for info in store.list("")] == []
    assert "locks" not in found
    store.close()


@pytest.mark.sandbox
@pytest.mark.parametrize("server", ["open_bucket", "second_bucket"])
def test_a_bucket_is_good(server: str, request: pytest.FixtureRequest) -> None:
    open_one: OpenBucket = request.getfixturevalue(server)
    store = open_one(prefix="place/").store()
    check, found = checked(store, SystemClock())
    assert check.verdict is Verdict.GOOD, found
    assert [info.name for info in store.list("")] == []
