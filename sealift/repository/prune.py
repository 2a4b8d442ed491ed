"""Dropping points, and removing what no point needs any more, beside writers that go on.

Two commits, days apart. The first drops points and *condemns* objects; they stay and stay good,
and a sync that builds on one takes it off the list in its own commit. The second, after the
quarantine, *dooms* what is still condemned; only then is it deleted, and a sync that built on it is
refused.
Both are computed of one head and published on that head alone: what another writer commits
meanwhile makes them void. Nothing is decided by the times of the store.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from sealift.errors import (
    CredentialsError,
    IntegrityError,
    PruneRefusedError,
    TargetDeniedError,
    TransientError,
    UsageError,
)
from sealift.repository.commits import (
    COMMITS_KEPT,
    Commit,
    Condemned,
    Head,
    IndexRef,
    PointRef,
)
from sealift.repository.index import PackRow
from sealift.repository.names import (
    RANDOM_BYTES,
    ObjectKind,
    commit_name,
    index_name,
    parsed,
)
from sealift.repository.packer import read_index
from sealift.repository.packs import MAX_INDEX_BYTES, Toc, encode_index
from sealift.repository.retention import FUTURE_TOLERANCE_SECONDS, Retention, Verdict, judge
from sealift.repository.session import MAX_INDEX_OBJECT_BYTES, Repository
from sealift.repository.walk import Marker
from sealift.sealing.chunks import ChunkKind
from sealift.sealing.records import RecordKind

QUARANTINE_SECONDS = 7 * 86_400.0
"""How long a condemned object stays: time to notice a prune that should not have been."""
MAX_REMOVED_SHARE = 0.2
"""Of the points; who removes more at once has to say so."""
FREE_REMOVALS = 5
"""So many points may always go: a share of a few points means nothing."""
_MAX_TRIES = 20


@dataclass(frozen=True, slots=True)
class PruneOptions:
    """How careful a prune is.

    Attributes:
        quarantine_seconds: see ``QUARANTINE_SECONDS``.
        mass_removal: more than a fifth of the points may go at once.
    """

    quarantine_seconds: float = QUARANTINE_SECONDS
    mass_removal: bool = False


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What a prune did, or would do.

    Attributes:
        verdicts: on every point.
        dropped: points that are live no more.
        condemned: objects that were condemned now.
        condemned_bytes: of the packs among them.
        rescued: objects that are needed again.
        doomed: objects that were given up for good.
        doomed_bytes: of the packs among them.
        deleted: objects that are gone now.
        denied: objects that the store did not let us delete.
    """

    verdicts: tuple[Verdict, ...]
    dropped: tuple[PointRef, ...] = ()
    condemned: tuple[str, ...] = ()
    condemned_bytes: int = 0
    rescued: tuple[str, ...] = ()
    doomed: tuple[str, ...] = ()
    doomed_bytes: int = 0
    deleted: int = 0
    denied: tuple[str, ...] = ()


@dataclass
class _Plan:
    """One prune, computed of one head."""

    head: Head
    verdicts: tuple[Verdict, ...]
    dropped: tuple[PointRef, ...]
    kept: tuple[PointRef, ...]
    packs: dict[str, PackRow]
    unneeded: set[str]
    fresh: set[str] = field(default_factory=set)
    ripe: set[str] = field(default_factory=set)


class Pruner:
    """Prunes one repository. Needs a credential that may delete; writers need none.

    Args:
        repository: opened.
        options: see there.
    """

    def __init__(self, repository: Repository, options: PruneOptions | None = None) -> None:
        self._repository = repository
        self._options = options or PruneOptions()

    def preview(self, policy: Retention) -> PruneReport:
        """What ``run`` would do now; writes and removes nothing. Raises as ``run`` does."""
        plan = self._plan(self._repository.refresh(), policy)
        return self._report(plan)

    def run(self, policy: Retention) -> PruneReport:
        """Drop, condemn, doom and delete what is due. Safe to run again after any failure.

        Raises:
            PruneRefusedError: a point or the head lies in the future, or too much would go.
            IntegrityError: a live point cannot be read as a whole; nothing is removed then.
            TransientError: other writers committed each time before us.
        """
        for _ in range(_MAX_TRIES):
            head = self._repository.refresh()
            plan = self._plan(head, policy)
            deleted, denied = self._delete(sorted(head.commit.doomed))
            commit = self._commit(plan, denied)
            published = head
            if commit != head.commit:
                following = self._repository.log.publish_on(head, commit)
                if following is None:
                    continue
                published = following
            return self._finish(plan, published, deleted, denied)
        raise TransientError("other writers were faster each time; run it again")

    # ------------------------------------------------------------------ deciding

    def _plan(self, head: Head, policy: Retention) -> _Plan:
        self._refuse_clock(head.commit)
        now = self._repository.clock.now()
        verdicts = tuple(judge(head.commit.points, policy, now))
        dropped = tuple(v.point for v in verdicts if not v.reasons)
        self._refuse_mass(len(dropped), len(verdicts))
        kept = tuple(v.point for v in verdicts if v.reasons)
        packs = {row.name: row for row in self._repository.index.packs()}
        plan = _Plan(head, verdicts, dropped, kept, packs, set())
        plan.unneeded = self._unneeded(plan)
        listed = {c.name: c for c in head.commit.condemned}
        plan.fresh = plan.unneeded - listed.keys() - set(head.commit.doomed)
        plan.ripe = {c.name for n, c in listed.items() if n in plan.unneeded and self._is_ripe(c)}
        return plan

    def _refuse_clock(self, commit: Commit) -> None:
        now_ms = self._now_ms()
        if commit.at_ms > now_ms + FUTURE_TOLERANCE_SECONDS * 1000:
            raise PruneRefusedError(
                "the newest commit lies in the future by the clock of this host",
                next_step="see that the clocks of all hosts are right",
            )

    def _refuse_mass(self, dropped: int, total: int) -> None:
        allowed = max(FREE_REMOVALS, int(total * MAX_REMOVED_SHARE))
        if dropped > allowed and not self._options.mass_removal:
            raise PruneRefusedError(
                f"{dropped} of {total} points would be dropped at once, more than a fifth",
                next_step="look at the preview; if it is right, allow mass removal",
                dropped=dropped,
                total=total,
            )

    def _is_ripe(self, condemned: Condemned) -> bool:
        due = condemned.at_ms + self._options.quarantine_seconds * 1000
        return condemned.at_ms <= self._now_ms() and due <= self._now_ms()

    def _unneeded(self, plan: _Plan) -> set[str]:
        """Everything that no kept point stands on: by the index, and by the list."""
        avoid = [c.name for c in plan.head.commit.condemned]
        marker = Marker(self._repository, avoid)
        for ref in plan.kept:
            for disk in self._repository.manifest(ref).disks:
                marker.mark(disk.tree, _refuse_missing)
        needed = {row.name for row in plan.packs.values() if row.no in marker.used}
        needed |= {ref.manifest for ref in plan.kept}
        needed |= {ref.name for ref in plan.head.commit.indexes}
        named = set(plan.packs) | {ref.manifest for ref in plan.head.commit.points}
        named |= {c.name for c in plan.head.commit.condemned}
        return (named | self._listed()) - needed

    def _listed(self) -> set[str]:
        """Objects in the store; what a sync that is under way has put is among them."""
        found: set[str] = set()
        for kind in (ObjectKind.PACK, ObjectKind.INDEX, ObjectKind.MANIFEST):
            for info in self._repository.store.list(f"{kind.value}/"):
                if parsed(info.name) is not None:
                    found.add(info.name)
        return found

    # ------------------------------------------------------------------ publishing

    def _commit(self, plan: _Plan, denied: Sequence[str]) -> Commit:
        """The head with the plan applied; writes new index objects where packs are doomed."""
        head, now = plan.head.commit, self._now_ms()
        stay = [c for c in head.condemned if c.name in plan.unneeded - plan.ripe]
        dropped = {ref.name for ref in head.indexes}
        indexes = self._indexes(head.indexes, plan.ripe)
        dropped -= {ref.name for ref in indexes}
        fresh = [Condemned(n, head.seq + 1, now) for n in sorted(plan.fresh | dropped)]
        return replace(
            head,
            points=plan.kept,
            indexes=indexes,
            condemned=(*stay, *fresh),
            doomed=(*denied, *sorted(plan.ripe)),
        )

    def _indexes(self, refs: Sequence[IndexRef], ripe: set[str]) -> tuple[IndexRef, ...]:
        kept: list[IndexRef] = []
        tocs: list[Toc] = []
        for ref in refs:
            found = read_index(
                self._repository.store, self._repository.records, ref, MAX_INDEX_OBJECT_BYTES
            )
            if any(toc.pack in ripe for toc in found):
                tocs += [toc for toc in found if toc.pack not in ripe]
            else:
                kept.append(ref)
            while sum(len(toc.body) for toc in tocs) > MAX_INDEX_BYTES:
                kept.append(self._write_index([tocs.pop()]))
        return (*kept, *([self._write_index(tocs)] if tocs else []))

    def _write_index(self, tocs: list[Toc]) -> IndexRef:
        repository = self._repository
        name = index_name(repository.ring.entropy(RANDOM_BYTES))
        sealed = repository.records.seal(RecordKind.INDEX, name, encode_index(tocs))
        repository.store.put(name, sealed, lock_until=repository.locks.until())
        return IndexRef(name, hashlib.sha256(sealed).digest())

    # ------------------------------------------------------------------ deleting

    def _finish(
        self, plan: _Plan, published: Head, deleted: int, denied: Sequence[str]
    ) -> PruneReport:
        more, also_denied = self._delete(sorted(plan.ripe))
        self._delete_commits(published.commit.seq)
        report = self._report(plan)
        refused = (*denied, *also_denied)
        return replace(report, deleted=deleted + more, denied=refused)

    def _delete(self, names: Sequence[str]) -> tuple[int, list[str]]:
        """Delete what is doomed; a lock of the store may hold some of it for now."""
        denied = []
        for name in names:
            try:
                self._repository.store.delete(name)
            except TargetDeniedError:
                denied.append(name)
        return len(names) - len(denied), denied

    def _delete_commits(self, newest: int) -> None:
        """Old commits that no reader needs; those that a lock holds stay."""
        prefix = f"{ObjectKind.COMMIT.value}/"
        for info in self._repository.store.list(prefix):
            name = parsed(info.name)
            if name is not None and name.seq < newest - COMMITS_KEPT:
                try:
                    self._repository.store.delete(commit_name(name.seq))
                except CredentialsError:
                    raise
                except TargetDeniedError:
                    return

    def _report(self, plan: _Plan) -> PruneReport:
        listed = {c.name for c in plan.head.commit.condemned}
        return PruneReport(
            plan.verdicts,
            plan.dropped,
            tuple(sorted(plan.fresh)),
            sum(plan.packs[n].size for n in plan.fresh if n in plan.packs),
            tuple(sorted(listed - plan.unneeded)),
            tuple(sorted(plan.ripe)),
            sum(plan.packs[n].size for n in plan.ripe if n in plan.packs),
        )

    def _now_ms(self) -> int:
        return int(self._repository.clock.now().timestamp() * 1000)


def _refuse_missing(kind: ChunkKind, chunk: bytes) -> None:
    raise IntegrityError(
        f"{kind.name.lower()} {chunk.hex()} of a live point is in no pack of the index",
        next_step="run repository check before anything is pruned",
    )


def drop_points(repository: Repository, ids: Sequence[bytes]) -> Head:
    """Drop points by id, whatever retention says; their chunks go with later prunes.

    Looked at anew on every head that it is tried on: a pin that another run sets meanwhile counts.

    Raises:
        UsageError: a point is not there, pinned, or under a lock of the store; nothing was dropped.
    """

    def change(commit: Commit) -> Commit:
        for point_id in ids:
            _refuse_locked(repository, _found(commit, point_id, pinned=False))
        return replace(commit, points=tuple(p for p in commit.points if p.id not in ids))

    return repository.log.publish(change)


def _refuse_locked(repository: Repository, point: PointRef) -> None:
    """A lock promises that nobody loses the point before its end, its owner included.

    A point of the future was planted, or made with a wrong clock; its time promises nothing.
    """
    now = repository.clock.now().timestamp()
    taken = point.taken_ms / 1000
    until = repository.locks.end(taken)
    if until is None or until <= now or taken > now + FUTURE_TOLERANCE_SECONDS:
        return
    ends = datetime.fromtimestamp(until, UTC).isoformat(timespec="seconds")
    raise UsageError(
        f"point {point.id.hex()} is under a lock of the store until {ends}",
        next_step="drop it then; nothing deletes its objects before",
        point=point.id.hex(),
    )


def pin_point(repository: Repository, point_id: bytes, *, pinned: bool) -> Head:
    """Keep a point whatever retention says, or no longer.

    Raises:
        UsageError: it is not there.
    """

    def change(commit: Commit) -> Commit:
        found = _found(commit, point_id)
        new = replace(found, pinned=pinned)
        return replace(commit, points=tuple(new if p == found else p for p in commit.points))

    return repository.log.publish(change)


def _found(commit: Commit, point_id: bytes, *, pinned: bool | None = None) -> PointRef:
    found = commit.point(point_id)
    if found is None:
        raise UsageError(f"there is no point {point_id.hex()}", next_step="see points list")
    if pinned is False and found.pinned:
        raise UsageError(f"point {point_id.hex()} is pinned", next_step="unpin it first")
    return found
