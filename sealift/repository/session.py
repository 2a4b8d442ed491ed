"""An opened repository: its head, its index, and what is stored and read through them."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from sealift.clock import Clock
from sealift.errors import (
    ChunksGoneError,
    IntegrityError,
    LockedError,
    ObjectMissingError,
    PointLostError,
)
from sealift.objects import ObjectStore
from sealift.repository.commits import Commit, CommitLog, Head, PointRef, Witness
from sealift.repository.index import ChunkIndex, Location
from sealift.repository.locks import Locks
from sealift.repository.names import RANDOM_BYTES, manifest_name
from sealift.repository.packer import Packer, read_index
from sealift.repository.packs import MAX_TOC_BYTES, PACK_BYTES
from sealift.repository.points import MAX_MANIFEST_BYTES, PointManifest
from sealift.repository.recent import Recent
from sealift.repository.tree import MAX_ENCODED_BYTES, Tree, added
from sealift.sealing.chunks import ChunkKind, ChunkSealer
from sealift.sealing.compression import SMALL_CHUNKS
from sealift.sealing.keys import KeyRing
from sealift.sealing.records import RecordKind, RecordSealer
from sealift.store import StateStore
from sealift.units import KiB, MiB

CHUNK_BYTES = 64 * KiB
"""Of a new disk: the granule of QEMU's bitmaps, so that a changed granule stores one chunk."""
NODES_CACHED = 8192
"""Some 17 MiB: every node above the leaves of a disk of 30 TiB."""
NODE_PACK_READ_WHOLE_BYTES = 4 * MiB
"""A pack of nodes of up to this size is read at once: one request costs as much as this."""
NODE_PACKS_CACHED_BYTES = 32 * MiB
"""Of such packs in memory."""
_BATCH = 4096
MAX_INDEX_OBJECT_BYTES = 2 * MAX_TOC_BYTES + 16 * 1024 * KiB


@dataclass(frozen=True, slots=True)
class RepositoryOptions:
    """What may differ from one process to another.

    Attributes:
        level: of zstd; or ``SMALL_CHUNKS``.
        pack_bytes: chunks of a full pack.
        chunk_bytes: of disks that are new.
        lock_seconds: how long the store keeps what is put, and what a new point stands on,
            from being deleted by anybody; 0 = no lock. For stores with ``object_lock``.
    """

    level: int = SMALL_CHUNKS
    pack_bytes: int = PACK_BYTES
    chunk_bytes: int = CHUNK_BYTES
    lock_seconds: float = 0.0


class Repository:
    """Chunks, nodes, points and commits over one object store. Thread-safe but for commits.

    Memory: the packs under construction (see ``Packer``), the index (see ``ChunkIndex``) and
    ``NODES_CACHED`` nodes and ``NODE_PACKS_CACHED_BYTES``, whatever the repository's size.

    Args:
        store: where the objects are; repeats what may be repeated itself.
        ring: keys.
        state: this host's witness and its list of what was put and not committed yet.
        clock: dates commits.
        cache: folder of the local index; None = it is made anew in each process.
        options: see there.
    """

    def __init__(
        self,
        store: ObjectStore,
        ring: KeyRing,
        state: StateStore,
        clock: Clock,
        cache: Path | None = None,
        options: RepositoryOptions | None = None,
    ) -> None:
        self.store, self.ring, self.state, self.clock = store, ring, state, clock
        self.options = options or RepositoryOptions()
        self.sealer = ChunkSealer(ring, level=self.options.level)
        self.records = RecordSealer(ring)
        self.locks = Locks(store, clock, state, ring.repository_id, self.options.lock_seconds)
        self.log = CommitLog(
            store,
            self.records,
            ring.repository_id,
            clock,
            state,
            ring.epoch,
            self.locks.until,
        )
        self.index = ChunkIndex(cache, f"index-{ring.repository_id.hex()}")
        self.packer = Packer(
            store,
            self.sealer,
            self.records,
            self.index,
            ring.entropy,
            state,
            f"pending-{ring.repository_id.hex()}",
            self.options.pack_bytes,
            self.locks.until,
        )
        self._nodes = Recent(NODES_CACHED, lambda _: 1)
        self._node_packs = Recent(NODE_PACKS_CACHED_BYTES, len)
        self._head: Head | None = None

    # ------------------------------------------------------------------ beginning

    @classmethod
    def init(
        cls,
        store: ObjectStore,
        ring: KeyRing,
        state: StateStore,
        clock: Clock,
        cache: Path | None = None,
        options: RepositoryOptions | None = None,
    ) -> "Repository":
        """Begin the commit log of a new repository.

        Raises:
            ObjectExistsError: there is one already.
        """
        self = cls(store, ring, state, clock, cache, options)
        self._head = self.log.begin()
        return self

    @classmethod
    def open(
        cls,
        store: ObjectStore,
        ring: KeyRing,
        state: StateStore,
        clock: Clock,
        cache: Path | None = None,
        options: RepositoryOptions | None = None,
        witness: Witness | None = None,
        *,
        writes: bool = True,
        follows: bool = True,
    ) -> "Repository":
        """Find the head, know what it names, and take over what a killed process left.

        Args:
            store: see ``Repository``; as for the rest.
            ring: keys.
            state: of this host.
            clock: time.
            cache: folder of the local index.
            options: see there.
            witness: of a receipt, beside what this host remembers.
            writes: False for whoever only reads, checks or prunes.
            follows: False leaves the index unread, for whoever makes it anew.

        Raises:
            RepositoryRolledBackError: an older state than one that was there before is shown.
            IntegrityError: the head or an index object is damaged or missing.
        """
        self = cls(store, ring, state, clock, cache, options)
        head = self.log.head(witness)
        if head.commit.epoch < ring.epoch:  # opened with a slot of an epoch that is not begun yet
            self.close()
            ring = ring.at_epoch(head.commit.epoch)
            self = cls(store, ring, state, clock, cache, options)
        self._head = head
        if follows:
            self._follow(head.commit)
        if writes and follows:
            self.packer.resume()
        return self

    def close(self) -> None:
        """Free the files of the local state; the store is the caller's. Idempotent."""
        self.packer.close()
        self.index.close()

    # ------------------------------------------------------------------ the head

    @property
    def head(self) -> Head:
        """As last read; ``refresh`` reads it again."""
        if self._head is None:
            raise ValueError("the repository is not open")
        return self._head

    def refresh(self) -> Head:
        """Read the head again, and follow its index."""
        self._head = self.log.head()
        self._follow(self._head.commit)
        return self._head

    def begin_epoch(self, epoch: int) -> Head:
        """Let every writer seal with the keys of this epoch from now on; idempotent.

        Whoever has only older keys opens what was sealed before, and publishes no more.
        """
        self._head = self.log.publish(lambda c: replace(c, epoch=max(c.epoch, epoch)))
        return self._head

    def _follow(self, commit: Commit) -> None:
        self.index.follow(
            commit.indexes,
            lambda ref: read_index(self.store, self.records, ref, MAX_INDEX_OBJECT_BYTES),
            self.packer.packs().keys(),
        )

    # ------------------------------------------------------------------ chunks and nodes

    def load_node(self, node: bytes) -> bytes:
        """Plaintext of a tree's node.

        Raises:
            IntegrityError: it is missing or damaged.
        """
        found = self._nodes.get(node)
        if found is None:
            where = self.index.find(ChunkKind.NODE, [node]).get(node)
            if where is None:
                raise IntegrityError(f"node {node.hex()} is in no pack of the index")
            found = self._fetch_node(node, where)
        return found

    def _fetch_node(self, node: bytes, where: Location) -> bytes:
        try:
            found = self._of_small_pack(node, where)
            if found is None:
                sealed = self.store.get(where.pack, where.offset, where.length)
                found = self.opened(ChunkKind.NODE, node, where, sealed)
        except ObjectMissingError as error:
            raise IntegrityError(f"node {node.hex()}: {where.pack} is missing") from error
        self._nodes.put(node, found)
        return found

    def _of_small_pack(self, node: bytes, where: Location) -> bytes | None:
        """A node out of a small pack, which is kept: its neighbours are asked for next.

        Only what is asked for is opened: a pack of 4 MiB holds up to 50,000 nodes of a disk
        that is nearly empty, more than are kept. None where the pack is large, or is damaged
        in this place: the store may have another answer if it is asked for the node alone.
        """
        if self.index.pack_size(where.pack) > NODE_PACK_READ_WHOLE_BYTES:
            return None
        whole = self._node_packs.get(where.pack)
        if whole is None:
            whole = self.store.get(where.pack)
            self._node_packs.put(where.pack, whole)
        try:
            sealed = whole[where.offset : where.offset + where.length]
            return self.opened(ChunkKind.NODE, node, where, sealed)
        except IntegrityError:
            self._node_packs.drop(where.pack)
            return None

    def store_node(self, data: bytes) -> bytes:
        """Store a node; its id."""
        node = self.sealer.content_id(data)
        self.packer.put(ChunkKind.NODE, [node], [data])
        self._nodes.put(node, data)
        return node

    def opened(
        self, kind: ChunkKind, chunk: bytes, where: Location, sealed: bytes | memoryview
    ) -> bytes:
        """Plaintext of a chunk, proven by its id."""
        limit = MAX_ENCODED_BYTES if kind is ChunkKind.NODE else None
        if limit is not None and where.plain > limit:
            raise IntegrityError(f"node {chunk.hex()} of {where.plain} bytes")
        return self.sealer.open(
            kind, chunk, where.codec, where.plain, where.epoch, sealed, check_id=True
        )

    # ------------------------------------------------------------------ points

    def manifest(self, ref: PointRef) -> PointManifest:
        """What a live point is.

        Raises:
            PointLostError: its manifest is gone.
            IntegrityError: it is damaged, or another one.
        """
        try:
            sealed = self.store.get(ref.manifest)
        except ObjectMissingError as error:
            raise PointLostError(
                f"the manifest of point {ref.id.hex()} is gone from the store",
                next_step="run repository check to see what else is missing",
                point=ref.id.hex(),
            ) from error
        if hashlib.sha256(sealed).digest() != ref.digest:
            raise IntegrityError(f"{ref.manifest}: it is not the object that the commit names")
        data = self.records.open(
            RecordKind.MANIFEST, ref.manifest, sealed, max_bytes=MAX_MANIFEST_BYTES
        )
        found = PointManifest.from_bytes(data, ref.manifest)
        if found.id != ref.id:
            raise IntegrityError(f"{ref.manifest}: it is the manifest of another point")
        return found

    def publish(self, point: PointManifest, bases: Mapping[str, tuple[bytes, Tree]]) -> Head:
        """Make a point visible; idempotent by its id. All its chunks were flushed.

        Order of writes: packs, index objects, manifest, commit.

        Args:
            point: what to publish; ``previous`` is filled in.
            bases: by disk id, the live point and the tree that the new tree was made from:
                as long as that point is live, what both share is not looked at.

        Raises:
            ChunksGoneError: something that the point needs was pruned meanwhile; nothing is
                published. The disks have to be synced again.
            LockedError: another run published another content under this id.
        """
        self.packer.flush()
        indexes = self.packer.indexed()
        ref = self._put_manifest(point)
        names = {index.name for index in indexes}

        def change(commit: Commit) -> Commit:
            known = commit.point(ref.id)
            if known is not None:
                self._check_same(known, point)
                return commit
            needed = self._needed(commit, point, bases, {ref.manifest, *names})
            return replace(
                commit,
                points=(*commit.points, ref),
                indexes=(*commit.indexes, *indexes),
                condemned=tuple(c for c in commit.condemned if c.name not in needed),
            )

        self._head = self.log.publish(change)
        self.packer.committed()
        self.locks.renew(self._head.commit, [row.name for row in self.index.packs()])
        return self._head

    def _put_manifest(self, point: PointManifest) -> PointRef:
        ours = [p for p in self.head.commit.points if p.vm == point.vm.uuid]
        previous = ours[-1].digest if ours else bytes(32)
        data = replace(point, previous=previous).to_bytes()
        name = manifest_name(self.ring.entropy(RANDOM_BYTES))
        sealed = self.records.seal(RecordKind.MANIFEST, name, data)
        self.store.put(name, sealed, lock_until=self.locks.until())
        return PointRef(
            id=point.id,
            vm=point.vm.uuid,
            plan=point.plan,
            seq=point.seq,
            taken_ms=point.taken_ms,
            size=sum(d.tree.size for d in point.disks),
            manifest=name,
            digest=hashlib.sha256(sealed).digest(),
        )

    def _check_same(self, known: PointRef, point: PointManifest) -> None:
        if self.manifest(known).disks != point.disks:
            raise LockedError(
                f"point {point.id.hex()} is there already with other content: another run, on "
                "another host or with another state folder, made it",
                next_step="go on there, or choose another id here",
            )

    def _check_stored(self, ours: set[str]) -> None:
        """Everything that the commit will name anew is there as it was put (I3).

        Asked after the commit before was read: what it does not doom is deleted by nobody
        without a commit of his own, and then ours is refused.
        """
        for name, size in self.packer.packs().items():
            info = self.store.head(name)
            if info is None or info.size != size:
                raise self._gone(f"{name} is gone from the store or has another length")
        for name in sorted(ours):
            if self.store.head(name) is None:
                raise self._gone(f"{name} is gone from the store")

    def _needed(
        self,
        commit: Commit,
        point: PointManifest,
        bases: Mapping[str, tuple[bytes, Tree]],
        ours: set[str],
    ) -> set[str]:
        """Objects that the point stands on, seen from a commit that it shall follow.

        ``ours`` are its own manifest and index objects.

        Raises:
            ChunksGoneError: some are not there any more.
        """
        self._follow(commit)
        self._check_stored(ours)
        pending = self.packer.packs().keys()
        needed = {*pending, *ours}
        for one in point.disks:
            base = bases.get(one.disk.id)
            live = base is not None and commit.point(base[0]) is not None
            needed |= self._packs_of(base[1] if base and live else None, one.tree)
        doomed = set(commit.doomed)
        for name in sorted(needed):
            own = name in pending or name in ours
            if name in doomed or not (own or self.index.has_pack(name)):
                raise self._gone(f"{name} was pruned meanwhile")
        self.locks.extend(sorted(needed - pending - ours))
        return needed

    def _packs_of(self, base: Tree | None, tree: Tree) -> set[str]:
        packs: set[str] = set()
        parts = added(base, tree, self._load_or_gone)
        while part := list(islice(parts, _BATCH)):
            for kind in ChunkKind:
                ids = [one for level, one in part if (level < 0) == (kind is ChunkKind.DATA)]
                found, missing = self.index.packs_of(kind, ids)
                if missing:
                    raise self._gone(f"chunk {missing[0].hex()} is in no pack of the index")
                packs |= found
        return packs

    def _load_or_gone(self, node: bytes) -> bytes:
        if not self.index.known(ChunkKind.NODE, [node]):
            raise self._gone(f"node {node.hex()} is in no pack of the index")
        return self.load_node(node)

    def _gone(self, what: str) -> ChunksGoneError:
        return ChunksGoneError(
            f"the point cannot be published: {what}",
            next_step="run the same command again: what is missing is read and sent anew",
        )
