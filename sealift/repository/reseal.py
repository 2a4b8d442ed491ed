"""Resealing: all that live points stand on, under the keys of the newest epoch.

One index object after the other: its packs are read, opened, sealed anew and put under new
names, and a commit puts a new index object in the place of the old one and condemns what it
replaced. So a run that died goes on where it was, readers and writers go on beside it, and the
old objects go with the quarantine of later prunes. Manifests come last, in one commit.
"""

import hashlib
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from sealift.cancel import CancelToken
from sealift.errors import TransientError
from sealift.pipeline import Executor, ThreadExecutor
from sealift.repository.commits import Commit, Condemned, IndexRef, PointRef
from sealift.repository.names import RANDOM_BYTES, index_name, manifest_name
from sealift.repository.packer import read_index
from sealift.repository.packs import PackBuilder, Toc, encode_index, repacked
from sealift.repository.session import MAX_INDEX_OBJECT_BYTES, Repository
from sealift.repository.writer import WORKERS
from sealift.sealing.records import RecordKind, epoch_of


@dataclass(slots=True)
class ResealReport:
    """What was done; all zero where nothing was of an older epoch.

    Attributes:
        epoch: under whose keys all of it is now.
        chunks: sealed anew.
        packs: that hold them.
        manifests: sealed anew.
        stored_bytes: put into the store.
        condemned: objects that later prunes delete.
    """

    epoch: int
    chunks: int = 0
    packs: int = 0
    manifests: int = 0
    stored_bytes: int = 0
    condemned: int = 0


class _MovedError(Exception):
    """Another writer replaced an index object meanwhile: look at the head anew."""


@dataclass
class Resealer:
    """Reseals one repository; safe to run again after any failure.

    Memory: a pack three times for each of ``WORKERS``, and the tables of one index object.

    Args:
        repository: opened with the newest epoch's keys.
        cancel: looked at before each pack.
        executor: threads, or inline for simulations.
    """

    repository: Repository
    cancel: CancelToken = field(default_factory=CancelToken)
    executor: Executor = field(default_factory=ThreadExecutor)

    def run(self) -> ResealReport:
        """Reseal what is of an older epoch.

        Raises:
            IntegrityError: something is damaged; what was resealed before it stays.
            TransientError: of the store, or other writers were faster; run it again.
            StoppedError: a stop was asked for.
        """
        report, done = ResealReport(self.repository.ring.epoch), set[str]()
        while True:
            commit = self.repository.refresh().commit
            ref = next((ref for ref in commit.indexes if ref.name not in done), None)
            if ref is None:
                break
            try:
                done.add(self._index(ref, commit, report))
            except _MovedError:
                continue
        self._manifests(report)
        return report

    # ------------------------------------------------------------------ packs

    def _index(self, ref: IndexRef, commit: Commit, report: ResealReport) -> str:
        """Name of the index object that is in its place now: itself if it is new enough."""
        store, records = self.repository.store, self.repository.records
        tocs = read_index(store, records, ref, MAX_INDEX_OBJECT_BYTES)
        leaving = {c.name for c in commit.condemned}
        old = [toc for toc in tocs if toc.pack not in leaving and self._is_old(toc)]
        if not old and epoch_of(store.get(ref.name)) >= report.epoch:
            return ref.name
        renewed = self._packs(old, report)
        whole = [renewed.get(toc.pack, toc) for toc in tocs]
        fresh = self._put_index(whole, report)
        replaced = [ref.name, *renewed]
        self._swap(ref, fresh, replaced, {fresh.name, *(toc.pack for toc in renewed.values())})
        report.condemned += len(replaced)
        return fresh.name

    def _is_old(self, toc: Toc) -> bool:
        return any(entry.epoch < self.repository.ring.epoch for entry in toc.entries())

    def _packs(self, old: Sequence[Toc], report: ResealReport) -> dict[str, Toc]:
        """By the names of those that they replace, several at a time; all of them are stored.

        Raises the first error once no other pack is under way any more.
        """
        made: dict[str, Toc] = {}
        booking = threading.Lock()

        def work(toc: Toc) -> None:
            fresh = self._pack(toc)
            with booking:
                made[toc.pack] = fresh
                report.chunks += len(fresh)
                report.packs += 1
                report.stored_bytes += fresh.size

        workers = max(1, min(WORKERS, self.repository.store.caps.concurrency, len(old)))
        self.executor.run(old, work, workers, self.cancel)
        return {toc.pack: made[toc.pack] for toc in old}

    def _pack(self, toc: Toc) -> Toc:
        repository = self.repository
        whole = memoryview(repository.store.get(toc.pack))
        builder = PackBuilder(toc.kind)
        for entry in toc.entries():
            sealed = bytes(whole[entry.offset : entry.offset + entry.length])
            chunk = repacked(toc, entry, sealed)
            builder.add(repository.sealer.reseal(chunk))
        made, data = builder.sealed(repository.records, repository.ring.entropy)
        repository.store.put(made.pack, data, lock_until=repository.locks.until())
        return made

    def _put_index(self, tocs: Sequence[Toc], report: ResealReport) -> IndexRef:
        name = index_name(self.repository.ring.entropy(RANDOM_BYTES))
        digest = self._put(RecordKind.INDEX, name, encode_index(tocs), report)
        return IndexRef(name, digest)

    def _put(self, kind: RecordKind, name: str, data: bytes, report: ResealReport) -> bytes:
        """Digest of the object."""
        sealed = self.repository.records.seal(kind, name, data)
        self.repository.store.put(name, sealed, lock_until=self.repository.locks.until())
        report.stored_bytes += len(sealed)
        return hashlib.sha256(sealed).digest()

    def _swap(
        self, ref: IndexRef, fresh: IndexRef, replaced: Sequence[str], ours: Collection[str]
    ) -> None:
        def change(commit: Commit) -> Commit:
            if fresh in commit.indexes:
                return commit
            if ref not in commit.indexes:
                raise _MovedError
            indexes = tuple(fresh if one == ref else one for one in commit.indexes)
            return replace(
                commit, indexes=indexes, condemned=self._condemned(commit, replaced, ours)
            )

        self.repository.log.publish(change)

    def _condemned(
        self, commit: Commit, replaced: Sequence[str], ours: Collection[str]
    ) -> tuple[Condemned, ...]:
        """The list with what was replaced on it, and without what is ours.

        A prune that ran meanwhile took our new objects for those of a dead sync; one that is
        past its quarantine gave them up, and they may be gone already (I3).
        """
        doomed = not set(commit.doomed).isdisjoint(ours)
        if doomed or any(self.repository.store.head(name) is None for name in sorted(ours)):
            raise TransientError("a prune gave up what was just resealed; run it again")
        now_ms = int(self.repository.clock.now().timestamp() * 1000)
        listed = tuple(c for c in commit.condemned if c.name not in ours)
        known = {c.name for c in listed}
        fresh = (Condemned(n, commit.seq + 1, now_ms) for n in replaced if n not in known)
        return (*listed, *fresh)

    # ------------------------------------------------------------------ manifests

    def _manifests(self, report: ResealReport) -> None:
        old = [ref for ref in self.repository.refresh().commit.points if self._is_old_manifest(ref)]
        renewed: dict[str, PointRef] = {}
        digests: dict[bytes, bytes] = {}
        for ref in old:
            fresh = self._manifest(ref, digests, report)
            renewed[ref.manifest] = fresh
            digests[ref.digest] = fresh.digest
        ours = {ref.manifest for ref in renewed.values()}

        def change(commit: Commit) -> Commit:
            replaced = [ref.manifest for ref in commit.points if ref.manifest in renewed]
            if not replaced:
                return commit
            points = tuple(
                replace(ref, manifest=new.manifest, digest=new.digest)
                if (new := renewed.get(ref.manifest))
                else ref
                for ref in commit.points
            )
            return replace(commit, points=points, condemned=self._condemned(commit, replaced, ours))

        self.repository.log.publish(change)
        report.manifests += len(renewed)
        report.condemned += len(renewed)

    def _is_old_manifest(self, ref: PointRef) -> bool:
        return epoch_of(self.repository.store.get(ref.manifest)) < self.repository.ring.epoch

    def _manifest(
        self, ref: PointRef, digests: dict[bytes, bytes], report: ResealReport
    ) -> PointRef:
        """The same manifest under a new name; it names the one before by its new digest."""
        manifest = self.repository.manifest(ref)
        previous = digests.get(manifest.previous, manifest.previous)
        name = manifest_name(self.repository.ring.entropy(RANDOM_BYTES))
        data = replace(manifest, previous=previous).to_bytes()
        return replace(
            ref, manifest=name, digest=self._put(RecordKind.MANIFEST, name, data, report)
        )
