"""Object locks: what live points stand on cannot be deleted by whoever steals a credential.

An object is locked when it is put. A point that reuses it needs it for longer, so its lock is
extended with the point; and every object that is in use has its lock renewed before a quarter
of it has run off. What nothing needs any more runs out, and prune may delete it then.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from sealift.clock import Clock
from sealift.objects import ObjectStore
from sealift.repository.canonical import decode, encode
from sealift.repository.commits import Commit
from sealift.repository.names import commit_name
from sealift.store import StateStore

_RENEWALS = 4
_FEW = 32
"""Up to so many are extended one after the other, in the caller's thread."""


class Locks:
    """Locks of one repository.

    Args:
        store: of the repository.
        clock: locks end by its wall clock.
        state: remembers the last renewal.
        repository: id.
        seconds: of a lock; 0 = none are made.
    """

    def __init__(
        self, store: ObjectStore, clock: Clock, state: StateStore, repository: bytes, seconds: float
    ) -> None:
        self._store, self._clock, self._state = store, clock, state
        self._seconds = seconds if store.caps.object_lock else 0.0
        self._name = f"locks-{repository.hex()}"

    def until(self) -> float | None:
        """When a lock that begins now ends; None without locks."""
        return self.end(self._now())

    def end(self, began: float) -> float | None:
        """When a lock that began then ends, seconds of the epoch; None without locks."""
        return began + self._seconds if self._seconds else None

    def extend(self, names: Sequence[str]) -> None:
        """Let these objects be kept as if they were put now; two calls to the store for each.

        Raises:
            ObjectMissingError: one of them is gone.
        """
        until = self.until()
        if until is None:
            return
        extend = partial(self._store.extend_lock, until=until)
        if len(names) <= _FEW:
            for name in names:
                extend(name)
            return
        with ThreadPoolExecutor(self._store.caps.concurrency, "sealift-locks") as threads:
            for done in [threads.submit(extend, name) for name in names]:
                done.result()

    def renew(self, commit: Commit, packs: Sequence[str]) -> None:
        """Extend the locks of all that is in use, when that was not done for long enough."""
        if not self._seconds or self._is_fresh():
            return
        leaving = {c.name for c in commit.condemned} | set(commit.doomed)
        used = {*packs, *(i.name for i in commit.indexes), *(p.manifest for p in commit.points)}
        self.extend(sorted({*(used - leaving), commit_name(commit.seq)}))
        self._state.save(self._name, encode({"renewed_ms": int(self._now() * 1000)}))

    def _is_fresh(self) -> bool:
        """Whether a quarter is not over; a renewal of the future was made by a wrong clock."""
        return 0 <= self._now() - self._renewed() < self._seconds / _RENEWALS

    def _renewed(self) -> float:
        data = self._state.load(self._name)
        return decode(data, self._name).integer("renewed_ms") / 1000 if data else 0.0

    def _now(self) -> float:
        return self._clock.now().timestamp()
