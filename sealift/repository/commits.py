"""The commit log: the whole state of a repository after each change, one object a change.

Commit n+1 is put under its name only if nothing is there, so of any number of writers one
gets it; the others read it, apply their change to it and try n+2. The newest commit is the
head, and what it does not name does not exist (I3, I6).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from sealift.clock import Clock
from sealift.errors import (
    IntegrityError,
    ObjectExistsError,
    ObjectMissingError,
    RepositoryRolledBackError,
    TargetError,
    TransientError,
)
from sealift.objects import ObjectStore
from sealift.repository.canonical import MAX_TIME_MS, Fields, Json, decode, encode
from sealift.repository.names import MAX_SEQ, ObjectKind, commit_name, parsed
from sealift.repository.points import POINT_ID_BYTES
from sealift.sealing.keys import MAX_EPOCH, REPOSITORY_ID_BYTES
from sealift.sealing.records import MAX_RECORD_BYTES, RecordKind, RecordSealer
from sealift.store import StateStore

COMMIT_VERSION = 1
DIGEST_BYTES = 32
COMMITS_KEPT = 64
"""Commits behind the head that stay: enough for a reader that is slow, and for a witness that
is some days old."""
_MAX_TRIES = 1000
"""Lost races before a commit is given up: more than writers that anybody has."""


@dataclass(frozen=True, slots=True)
class PointRef:
    """A live recovery point.

    Attributes:
        id: of the point.
        vm: UUID of the machine.
        plan: id of the replication that made it.
        seq: its number there.
        taken_ms: when it was taken, milliseconds since 1970.
        size: bytes of all its disks.
        manifest: name of the manifest object.
        digest: SHA-256 of that object.
        pinned: no retention policy drops it.
    """

    id: bytes
    vm: str
    plan: str
    seq: int
    taken_ms: int
    size: int
    manifest: str
    digest: bytes
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class IndexRef:
    """An index object: its name and the SHA-256 of it."""

    name: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Condemned:
    """A pack or another object that no live point needs.

    Attributes:
        name: of the object.
        seq: commit that condemned it.
        at_ms: time of that commit, milliseconds since 1970, by the pruner's clock.
    """

    name: str
    seq: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class Commit:
    """The state of a repository.

    Attributes:
        repository: its id.
        seq: number of the commit.
        previous: SHA-256 of the commit object before; zeroes in the first.
        at_ms: when it was written, milliseconds since 1970.
        epoch: the newest epoch of keys that any commit was sealed with.
        points: live recovery points, in order of publication.
        indexes: all index objects that count.
        condemned: still there and still good, but on the way out.
        doomed: given up for good; deleted from now on, so nothing may be built on them.
    """

    repository: bytes
    seq: int
    previous: bytes
    at_ms: int
    epoch: int
    points: tuple[PointRef, ...] = ()
    indexes: tuple[IndexRef, ...] = ()
    condemned: tuple[Condemned, ...] = ()
    doomed: tuple[str, ...] = ()

    def point(self, point_id: bytes) -> PointRef | None:
        """A live point by its id."""
        return next((p for p in self.points if p.id == point_id), None)

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return encode(
            {
                "version": COMMIT_VERSION,
                "repository": self.repository.hex(),
                "seq": self.seq,
                "previous": self.previous.hex(),
                "at_ms": self.at_ms,
                "epoch": self.epoch,
                "points": [_point(p) for p in self.points],
                "indexes": [{"name": i.name, "digest": i.digest.hex()} for i in self.indexes],
                "condemned": [
                    {"name": c.name, "seq": c.seq, "at_ms": c.at_ms} for c in self.condemned
                ],
                "doomed": list(self.doomed),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes, what: str) -> "Commit":
        """Read ``to_bytes``.

        Raises:
            IntegrityError: not a commit, or of a version that this release does not know.
        """
        fields = decode(data, what)
        version = fields.integer("version")
        if version != COMMIT_VERSION:
            raise IntegrityError(
                f"{what}: a commit of version {version}; this release reads {COMMIT_VERSION}",
                next_step="use the newer release of sealift that wrote it",
            )
        return cls(
            repository=fields.raw("repository", REPOSITORY_ID_BYTES),
            seq=fields.integer("seq", most=MAX_SEQ),
            previous=fields.raw("previous", DIGEST_BYTES),
            at_ms=fields.integer("at_ms", most=MAX_TIME_MS),
            epoch=fields.integer("epoch", least=1, most=MAX_EPOCH),
            points=tuple(_read_point(one) for one in fields.objects("points")),
            indexes=tuple(
                IndexRef(_named(one, "name", ObjectKind.INDEX), one.raw("digest", DIGEST_BYTES))
                for one in fields.objects("indexes")
            ),
            condemned=tuple(
                Condemned(
                    _named(one, "name"), one.integer("seq"), one.integer("at_ms", most=MAX_TIME_MS)
                )
                for one in fields.objects("condemned")
            ),
            doomed=tuple(_ours(name, what) for name in fields.texts("doomed")),
        )


def _point(p: PointRef) -> Json:
    return {
        "id": p.id.hex(),
        "vm": p.vm,
        "plan": p.plan,
        "seq": p.seq,
        "taken_ms": p.taken_ms,
        "size": p.size,
        "manifest": p.manifest,
        "digest": p.digest.hex(),
        "pinned": p.pinned,
    }


def _read_point(fields: Fields) -> PointRef:
    return PointRef(
        id=fields.raw("id", POINT_ID_BYTES),
        vm=fields.text("vm"),
        plan=fields.text("plan"),
        seq=fields.integer("seq"),
        taken_ms=fields.integer("taken_ms", most=MAX_TIME_MS),
        size=fields.integer("size"),
        manifest=_named(fields, "manifest", ObjectKind.MANIFEST),
        digest=fields.raw("digest", DIGEST_BYTES),
        pinned=fields.flag("pinned"),
    )


def _named(fields: Fields, name: str, kind: ObjectKind | None = None) -> str:
    found = _ours(fields.text(name), fields.what)
    if kind is not None and not found.startswith(f"{kind.value}/"):
        raise IntegrityError(f"{fields.what}: {name} does not name such an object")
    return found


def _ours(name: str, what: str) -> str:
    if parsed(name) is None:
        raise IntegrityError(f"{what}: it names an object that is none of ours")
    return name


@dataclass(frozen=True, slots=True)
class Head:
    """The newest commit.

    Attributes:
        commit: its content.
        digest: SHA-256 of its object.
    """

    commit: Commit
    digest: bytes

    @property
    def receipt(self) -> str:
        """One line that proves later that the repository was once this far."""
        c = self.commit
        return f"sealift-receipt-1 {c.repository.hex()} {c.seq} {self.digest.hex()}"


@dataclass(frozen=True, slots=True)
class Witness:
    """How far a repository is known to have been."""

    repository: bytes
    seq: int
    digest: bytes

    @classmethod
    def from_receipt(cls, line: str) -> "Witness":
        """Read ``Head.receipt``.

        Raises:
            ValueError: it is no receipt.
        """
        word, repository, seq, digest = line.split()
        if word != "sealift-receipt-1" or not seq.isascii() or not seq.isdigit():
            raise ValueError("not a receipt of a repository")
        found = cls(bytes.fromhex(repository), int(seq), bytes.fromhex(digest))
        if len(found.repository) != REPOSITORY_ID_BYTES or len(found.digest) != DIGEST_BYTES:
            raise ValueError("not a receipt of a repository")
        return found


class CommitLog:
    """Finds and publishes commits. Not thread-safe.

    Args:
        store: of the repository; repeats what may be repeated itself.
        records: seals and opens.
        repository: id of the repository.
        clock: dates commits.
        state: keeps the witness of this host.
        epoch: of the keys at hand.
        lock_until: when the store may let a commit that is put now be deleted; None = at once.
    """

    def __init__(
        self,
        store: ObjectStore,
        records: RecordSealer,
        repository: bytes,
        clock: Clock,
        state: StateStore,
        epoch: int,
        lock_until: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._store, self._records, self._state = store, records, state
        self._lock_until = lock_until
        self._repository, self._clock, self._epoch = repository, clock, epoch
        self._witness_name = f"witness-{repository.hex()}"

    # ------------------------------------------------------------------ the head

    def head(self, witness: Witness | None = None) -> Head:
        """The newest commit; what this host has seen before is remembered.

        A list may be stale, so what comes after the newest listed commit is asked for one by
        one. An older head than one that is known to have been is refused.

        Args:
            witness: of a receipt; beside the one that this host keeps.

        Raises:
            RepositoryRolledBackError: an older state of the repository is shown.
            IntegrityError: there is no commit, or it is damaged.
        """
        known = [w for w in (self.witness(), witness) if w is not None]
        head = self._newest(max((w.seq for w in known), default=0))
        for one in known:
            self._confirm(head, one)
        self._remember(head)
        return head

    def witness(self) -> Witness | None:
        """What this host remembers of the repository; None on a host that never saw it."""
        data = self._state.load(self._witness_name)
        if data is None:
            return None
        fields = decode(data, "the witness of the repository")
        return Witness(
            fields.raw("repository", REPOSITORY_ID_BYTES),
            fields.integer("seq"),
            fields.raw("digest", DIGEST_BYTES),
        )

    def read(self, seq: int) -> Head | None:
        """One commit; None when it is not there.

        Raises:
            IntegrityError: it is damaged, or another commit under this name.
        """
        name = commit_name(seq)
        try:
            sealed = self._store.get(name)
        except ObjectMissingError:
            return None
        data = self._records.open(RecordKind.COMMIT, name, sealed, max_bytes=MAX_RECORD_BYTES)
        commit = Commit.from_bytes(data, name)
        if commit.seq != seq or commit.repository != self._repository:
            raise IntegrityError(f"{name}: it is commit {commit.seq} of another place")
        return Head(commit, hashlib.sha256(sealed).digest())

    def _newest(self, least: int) -> Head:
        listed = sorted({*self._listed(), least}, reverse=True)
        for seq in listed:
            found = self.read(seq)
            if found is not None:
                return self._followed(found)
        raise IntegrityError(
            "the repository has no commit",
            next_step="see that the address is right; a new repository needs repository init",
        )

    def _listed(self) -> list[int]:
        names = (parsed(info.name) for info in self._store.list(f"{ObjectKind.COMMIT.value}/"))
        return [n.seq for n in names if n is not None and n.kind is ObjectKind.COMMIT]

    def _followed(self, head: Head) -> Head:
        while (after := self.read(head.commit.seq + 1)) is not None:
            if after.commit.previous != head.digest:
                raise IntegrityError(f"commit {after.commit.seq} does not follow the one before")
            head = after
        return head

    def _confirm(self, head: Head, witness: Witness) -> None:
        if witness.repository != self._repository:
            raise IntegrityError("the receipt is of another repository")
        if head.commit.seq < witness.seq:
            raise _rolled_back(head, witness)
        same = head if head.commit.seq == witness.seq else self.read(witness.seq)
        if same is not None and same.digest != witness.digest:
            raise _rolled_back(head, witness)

    def _remember(self, head: Head) -> None:
        value: Json = {
            "repository": self._repository.hex(),
            "seq": head.commit.seq,
            "digest": head.digest.hex(),
        }
        data = encode(value)
        if self._state.load(self._witness_name) != data:
            self._state.save(self._witness_name, data)

    # ------------------------------------------------------------------ publishing

    def begin(self) -> Head:
        """Commit 0 of a new repository, and the proof that nobody can put another one.

        Raises:
            ObjectExistsError: there is one already.
            TargetError: the store took a second one: it does not keep conditions, and of two
                writers one would lose his points.
        """
        first = Commit(self._repository, 0, bytes(DIGEST_BYTES), self._now_ms(), self._epoch)
        head = self._put(first)
        try:
            self._put(first)  # sealed anew, so other bytes
        except ObjectExistsError:
            self._remember(head)
            return head
        raise TargetError(
            "the store takes a second object where one may be put only if there is none: two "
            "writers would overwrite each other's points",
            next_step="use a store that keeps If-None-Match; repository check-store tells",
        )

    def publish(self, change: Callable[[Commit], Commit]) -> Head:
        """Apply a change to the head, whatever the head has become by then.

        Args:
            change: of a commit's content; asked again for each head that another writer made
                meanwhile, and before: a change that finds itself done already returns its
                argument. What it raises ends the attempt, and nothing was published.

        Raises:
            TransientError: another writer was faster each time.
        """
        head = self.head()
        for _ in range(_MAX_TRIES):
            changed = change(head.commit)
            if changed == head.commit:
                return head
            if self._epoch < head.commit.epoch:
                raise IntegrityError(
                    "the repository has keys of a newer epoch than those at hand",
                    next_step="open the repository anew",
                )
            try:
                head = self._put(self._next(head, changed))
            except ObjectExistsError:
                head = self.head()
                continue
            self._remember(head)
            return head
        raise TransientError("other writers were faster each time; run it again")

    def publish_on(self, head: Head, changed: Commit) -> Head | None:
        """Publish what was computed of this very head; None when it is the head no more."""
        try:
            new = self._put(self._next(head, changed))
        except ObjectExistsError:
            return None
        self._remember(new)
        return new

    def _next(self, head: Head, changed: Commit) -> Commit:
        return replace(
            changed,
            seq=head.commit.seq + 1,
            previous=head.digest,
            at_ms=self._now_ms(),
        )

    def _put(self, commit: Commit) -> Head:
        name = commit_name(commit.seq)
        sealed = self._records.seal(RecordKind.COMMIT, name, commit.to_bytes())
        self._store.put(name, sealed, if_absent=True, lock_until=self._lock_until())
        return Head(commit, hashlib.sha256(sealed).digest())

    def _now_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1000)


def _rolled_back(head: Head, witness: Witness) -> RepositoryRolledBackError:
    return RepositoryRolledBackError(
        f"the repository shows commit {head.commit.seq}, but commit {witness.seq} was there before "
        "with other content: somebody put an older copy in its place",
        next_step="look for the newer objects in the store's versions or backups; nothing is "
        "written or removed until the head is back",
        head=head.commit.seq,
        witness=witness.seq,
    )
