"""What a store really does: the contract, run against somebody's own bucket or folder.

A store says what it can (``StoreCaps``); servers that speak S3 have been found that ignore
conditions without a word. So each capability is tried, below a random name of its own, and what
was put is removed again. Nothing else in the store is read or changed.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial, reduce
from random import Random

from sealift.clock import Clock
from sealift.errors import (
    IntegrityError,
    ObjectExistsError,
    ObjectMissingError,
    SealiftError,
    StoppedError,
    TargetDeniedError,
    TransientError,
)
from sealift.objects import ObjectStore, StoreCaps
from sealift.objects_retry import PatientStore
from sealift.retry import Retrier
from sealift.units import KiB, MiB

_RACES = 10
_WRITERS = 4
_LISTED = 1100  # more than a page of S3, Azure's default of 5,000 is not worth the time
_PACK_BYTES = 32 * MiB
_CLOCK_TOLERANCE_SECONDS = 300.0
"""S3 refuses signatures that are 15 minutes off; a third of it leaves time to correct a clock."""
_LOCK_SECONDS = 120.0
_LIST_PATIENCE_SECONDS = 30.0


class Verdict(Enum):
    """What a finding means for a repository."""

    GOOD = "good"
    DEGRADED = "degraded"
    """A repository works, with the restriction that is said."""
    BAD = "bad"
    """No repository may be kept here."""
    NOTE = "note"
    """For the owner to know."""

    def or_worse(self, other: "Verdict") -> "Verdict":
        """The worse of both; a note is as good as good."""
        order = (Verdict.NOTE, Verdict.GOOD, Verdict.DEGRADED, Verdict.BAD)
        return max(self, other, key=order.index)


@dataclass(frozen=True, slots=True)
class Finding:
    """One capability and what was seen of it.

    Attributes:
        capability: in a few words.
        verdict: see ``Verdict``.
        seen: what happened, with numbers.
        next_step: what to do about it; "" when there is nothing to do.
    """

    capability: str
    verdict: Verdict
    seen: str
    next_step: str = ""


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """How thorough.

    Attributes:
        pack_bytes: size of the large object; 32 MiB as a repository writes them.
        listed: objects of the list; above 1,000 it has a second page.
        races: of creators, and of replacers.
        locks: try locks, if the store says that it has them: what is put for that stays for
            two minutes, and in a versioned bucket until a rule removes it.
    """

    pack_bytes: int = _PACK_BYTES
    listed: int = _LISTED
    races: int = _RACES
    locks: bool = True


class StoreCheck:
    """Tries every capability of a store.

    Args:
        store: without the retry layer: conditions have to hold at the first attempt.
        retrier: repeats all other calls.
        clock: ours.
        rng: names and contents.
        options: see there.
    """

    def __init__(
        self,
        store: ObjectStore,
        retrier: Retrier,
        clock: Clock,
        rng: Random,
        options: CheckOptions | None = None,
    ) -> None:
        self._bare = store
        self._store: ObjectStore = PatientStore(store, retrier)
        self._clock = clock
        self._rng = rng
        self._options = options or CheckOptions()
        self._prefix = f"check-store/{rng.randbytes(8).hex()}"
        self._put: set[str] = set()
        self._lock = threading.Lock()
        self.found: list[Finding] = []

    def run(self) -> Iterator[Finding]:
        """Findings one by one; what was put is removed at the end, whatever happens.

        A store that cannot be written to or read from ends the check after that finding.
        """
        try:
            for name, step in self._steps():
                finding = self._tried(name, step)
                self.found.append(finding)
                yield finding
                if finding.verdict is Verdict.BAD and step == self._write_and_read:
                    break
        finally:
            left = self._remove()
        if left is not None:
            self.found.append(left)
            yield left

    @property
    def verdict(self) -> Verdict:
        """The worst of what was found."""
        return reduce(Verdict.or_worse, (f.verdict for f in self.found), Verdict.GOOD)

    @property
    def caps(self) -> StoreCaps:
        """What the store says, less what was found not to hold."""
        kept = {f.capability for f in self.found if f.verdict is Verdict.GOOD}
        says = self._store.caps
        return replace(
            says,
            conditional_put=says.conditional_put and "one creator wins" in kept,
            conditional_replace=says.conditional_replace and "one replacer wins" in kept,
            object_lock=says.object_lock and "locks" in kept,
        )

    def _steps(self) -> Sequence[tuple[str, Callable[[], Finding]]]:
        steps: list[tuple[str, Callable[[], Finding]]] = [
            ("write and read", self._write_and_read),
            ("ranges", self._ranges),
            ("read after write", self._read_after_write),
            ("whole or nothing", self._whole_or_nothing),
            ("one creator wins", self._one_creator),
            ("one replacer wins", self._one_replacer),
            ("lists", self._lists),
            ("names", self._names),
            ("delete", self._delete),
            ("clock", self._clock_of_store),
        ]
        if self._store.caps.object_lock and self._options.locks:
            steps.append(("locks", self._locks))
        return [*steps, ("speed", self._speed)]

    def _tried(self, name: str, step: Callable[[], Finding]) -> Finding:
        try:
            return step()
        except StoppedError:
            raise
        except SealiftError as error:
            return Finding(name, Verdict.BAD, error.message, error.next_step)

    # ------------------------------------------------------------------ steps

    def _write_and_read(self) -> Finding:
        sizes = (0, 1, 64 * KiB + 1, self._options.pack_bytes)
        for size in sizes:
            data = self._rng.randbytes(size)
            self._stored(f"size-{size}", data)
            if self._store.get(self._name(f"size-{size}")) != data:
                return _bad("write and read", f"an object of {size} bytes is read as another one")
        return _good("write and read", f"0 to {self._options.pack_bytes} bytes")

    def _ranges(self) -> Finding:
        data = self._rng.randbytes(MiB + 1)
        self._stored("ranges", data)
        name = self._name("ranges")
        for _ in range(20):
            start = self._rng.randrange(len(data))
            length = self._rng.randrange(1, len(data) - start + 1)
            if self._store.get(name, start, length) != data[start : start + length]:
                return _bad("ranges", f"{length} bytes from {start} are read as others")
        try:
            self._store.get(name, MiB, 2)
        except IntegrityError:
            return _good("ranges", "20 ranges, and none past the end")
        return _bad("ranges", "a range past the end of an object is answered")

    def _read_after_write(self) -> Finding:
        name = self._name("fresh")
        for turn in range(20):
            self._stored("fresh", b"%d" % turn)
            if self._store.get(name) != b"%d" % turn:
                return _bad("read after write", "what was replaced is read again")
            found = self._store.head(name)
            if found is None or found.size != len(b"%d" % turn):
                return _bad("read after write", "the size of what was replaced is said again")
        return _good("read after write", "20 replacements were read at once")

    def _whole_or_nothing(self) -> Finding:
        contents = [bytes([65 + n]) * (256 * KiB) for n in range(3)]
        self._stored("whole", contents[0])
        done, seen = threading.Event(), set[bytes]()

        def read() -> None:
            while not done.is_set():
                seen.add(self._store.get(self._name("whole")))

        with ThreadPoolExecutor(1) as threads:
            reader = threads.submit(read)
            try:
                for turn in range(12):
                    self._stored("whole", contents[turn % 3])
            finally:
                done.set()
            reader.result()
        if not seen <= set(contents):
            return _bad("whole or nothing", "a reader saw a part of an object")
        return _good("whole or nothing", "a reader beside 12 replacements saw whole objects")

    def _one_creator(self) -> Finding:
        def race(turn: int, again: int) -> int:
            return self._race(f"race-{turn}-{again}", None)

        for turn in range(self._options.races):
            won = self._won(partial(race, turn))
            if won != 1:
                return _bad_race("one creator wins", won)
        return _good("one creator wins", f"{self._options.races} races of {_WRITERS} writers")

    def _one_replacer(self) -> Finding:
        def race(turn: int, again: int) -> int:
            before = self._stored("replaced", b"before %d, %d" % (turn, again))
            return self._race("replaced", before)

        for turn in range(self._options.races):
            won = self._won(partial(race, turn))
            if won != 1:
                return _no_replacement(won)
        return _good("one replacer wins", f"{self._options.races} races of {_WRITERS} writers")

    def _won(self, race: Callable[[int], int]) -> int:
        """Winners of a race; of another one, when nobody was answered."""
        return next((won for again in range(3) if (won := race(again))), 0)

    def _race(self, leaf: str, version: str | None) -> int:
        """How many of the writers that began at once say that they won.

        Args:
            leaf: what they put.
            version: that they replace; None: they create it.
        """
        gate, name = threading.Barrier(_WRITERS), self._name(leaf)
        with self._lock:
            self._put.add(name)

        def one(number: int) -> bool:
            gate.wait()
            try:
                self._bare.put(name, b"%d" % number, if_absent=version is None, if_match=version)
            except (ObjectExistsError, ObjectMissingError, TransientError):
                return False  # S3 answers 409 to one of two at once: not done
            return True

        with ThreadPoolExecutor(_WRITERS) as threads:
            return sum(threads.map(one, range(_WRITERS)))

    def _lists(self) -> Finding:
        given = [f"list/{n:05}" for n in range(self._options.listed)]
        with ThreadPoolExecutor(self._store.caps.concurrency) as threads:
            list(threads.map(lambda leaf: self._stored(leaf, b""), given))
        wanted = [self._name(leaf) for leaf in given]
        began = self._clock.monotonic()
        while True:
            found = [info.name for info in self._store.list(self._name("list/"))]
            waited = self._clock.monotonic() - began
            if found == wanted:
                return _good("lists", f"{len(found)} objects in order, {waited:.1f} s behind")
            if waited > _LIST_PATIENCE_SECONDS:
                text = f"{len(found)} of {len(wanted)} objects after {waited:.0f} s"
                return Finding("lists", Verdict.DEGRADED, text, "prune finds garbage late here")
            self._clock.sleep(1.0)

    def _names(self) -> Finding:
        long = "n" * (200 - len(self._prefix) - 1)
        for leaf in (long, "a-b.c_d/0", "a-b.c_d.e"):
            self._stored(leaf, leaf.encode())
            if self._store.get(self._name(leaf)) != leaf.encode():
                return _bad("names", f"{leaf[:40]} is read as another object")
        return _good("names", "200 characters, and - . _ /")

    def _delete(self) -> Finding:
        self._stored("deleted", b"1")
        try:
            self._store.delete(self._name("deleted"))
        except TargetDeniedError as error:
            text = f"these credentials may not delete ({error.message})"
            step = "good for a writer; prune with other credentials"
            return Finding("delete", Verdict.NOTE, text, step)
        if self._store.head(self._name("deleted")) is not None:
            return _bad("delete", "an object is there after it was deleted")
        with self._lock:
            self._put.discard(self._name("deleted"))
        versioned = "; old versions stay and cost" if self._store.caps.versioned else ""
        return _good("delete", f"gone at once{versioned}")

    def _clock_of_store(self) -> Finding:
        self._stored("clock", b"")
        found = self._store.head(self._name("clock"))
        if found is None or found.modified is None:
            return Finding("clock", Verdict.NOTE, "the store does not say when an object was put")
        ahead = found.modified - self._clock.now().timestamp()
        text = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} ours"
        if abs(ahead) <= _CLOCK_TOLERANCE_SECONDS:
            return _good("clock", text)
        step = "correct the clock of this machine, or the store's; prune refuses until then"
        return Finding("clock", Verdict.DEGRADED, text, step)

    def _locks(self) -> Finding:
        until = self._clock.now().timestamp() + _LOCK_SECONDS
        self._stored("locked", b"1", lock_until=until)
        self._stored("locked-later", b"1")
        self._store.extend_lock(self._name("locked-later"), until)
        for leaf in ("locked", "locked-later"):
            try:
                self._store.delete(self._name(leaf))
            except TargetDeniedError:
                continue
            return _bad("locks", "a locked object can be deleted")
        return _good("locks", "two locked objects could not be deleted")

    def _speed(self) -> Finding:
        size = self._options.pack_bytes
        data = self._rng.randbytes(size)
        put = self._seconds(lambda: self._stored("speed", data))
        get = self._seconds(lambda: self._store.get(self._name("speed")))
        small = self._seconds(lambda: self._store.get(self._name("speed"), 0, min(64 * KiB, size)))
        text = (
            f"put {size / MiB / put:.0f} MiB/s, get {size / MiB / get:.0f} MiB/s, "
            f"64 KiB in {small * 1000:.0f} ms, one call at a time"
        )
        return Finding("speed", Verdict.NOTE, text)

    # ------------------------------------------------------------------ what was put

    def _name(self, leaf: str) -> str:
        return f"{self._prefix}/{leaf}"

    def _stored(self, leaf: str, data: bytes, lock_until: float | None = None) -> str:
        """Put, and remember for the removal; the version."""
        name = self._name(leaf)
        with self._lock:
            self._put.add(name)
        return self._store.put(name, data, lock_until=lock_until).version

    def _seconds(self, call: Callable[[], object]) -> float:
        began = self._clock.monotonic()
        call()
        return max(1e-6, self._clock.monotonic() - began)

    def _remove(self) -> Finding | None:
        """Remove what was put; what stays is said."""
        with ThreadPoolExecutor(self._store.caps.concurrency) as threads:
            stayed = sum(threads.map(self._removed, sorted(self._put)))
        if not stayed:
            return None
        text = f"{stayed} objects below {self._prefix} could not be removed"
        return Finding(
            "removal", Verdict.NOTE, text, "remove them by hand, once no lock holds them"
        )

    def _removed(self, name: str) -> bool:
        """Whether it is still there."""
        try:
            self._store.delete(name)
        except SealiftError:
            return True
        return False


def _bad_race(capability: str, won: int) -> Finding:
    seen = f"{won} of {_WRITERS} writers at once won"
    step = "keep no repository here: of two writers one would lose points. Use a store that keeps"
    return Finding(capability, Verdict.BAD, seen, f"{step} If-None-Match")


def _no_replacement(won: int) -> Finding:
    seen = f"{won} of {_WRITERS} writers at once won"
    step = "a repository replaces nothing and does without; the server ignores If-Match"
    return Finding("one replacer wins", Verdict.NOTE, seen, step)


def _good(capability: str, seen: str) -> Finding:
    return Finding(capability, Verdict.GOOD, seen)


def _bad(capability: str, seen: str) -> Finding:
    return Finding(capability, Verdict.BAD, seen, "keep no repository here")
