"""Repacking: what live points still need out of packs that are mostly needed no more.

The sealed chunks are copied as they are into new packs, and one commit names those and condemns
the old ones. Nothing else changes: the old packs stay, and stay good, until the quarantine of
later prunes is over, and a prune that finds that a point needs one of them all the same keeps it.
So a run that dies leaves at most packs that no commit names, which prunes remove.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from sealift.cancel import CancelToken
from sealift.errors import IntegrityError, TransientError
from sealift.repository.commits import Condemned, Head, IndexRef
from sealift.repository.index import Location, PackRow
from sealift.repository.names import RANDOM_BYTES, index_name
from sealift.repository.packs import PackBuilder, Toc, encode_index, read_toc, repacked
from sealift.repository.session import Repository
from sealift.repository.walk import Marker
from sealift.sealing.chunks import ChunkKind, SealedChunk
from sealift.sealing.records import RecordKind
from sealift.units import GiB

REPACK_BELOW = 0.5
"""Share of its chunks that a pack must still be needed for to be left alone: below, copying what
is needed frees more than it stores."""
MOST_BYTES = 4 * GiB
"""Of old packs read in one run; the emptiest come first, the rest with the next run."""


@dataclass(slots=True)
class RepackReport:
    """What was done.

    Attributes:
        packs: that were condemned, their live chunks being elsewhere now.
        freed_bytes: that they hold; gone after the quarantine.
        chunks: copied.
        stored_bytes: put into the store.
        damaged: packs that were left as they are, because a chunk in them does not open.
    """

    packs: list[str] = field(default_factory=list)
    freed_bytes: int = 0
    chunks: int = 0
    stored_bytes: int = 0
    damaged: list[str] = field(default_factory=list)


class LiveChunks(Marker):
    """Marks chunks, not only packs.

    Memory: as of ``Marker``, and one bit for each chunk of a pack that is needed.
    """

    def __init__(self, repository: Repository, avoid: Iterable[str]) -> None:
        super().__init__(repository, avoid)
        self._counts = {row.no: row.chunks for row in repository.index.packs()}
        self._bits: dict[int, bytearray] = {}

    def positions(self, row: PackRow) -> list[int]:
        """Of the chunks in a pack that are needed out of it, in order."""
        bits = self._bits.get(row.no, b"")
        return [n for n in range(row.chunks) if n // 8 < len(bits) and bits[n // 8] >> n % 8 & 1]

    def _use(
        self, kind: ChunkKind, ids: set[bytes], missing: Callable[[ChunkKind, bytes], None]
    ) -> None:
        copies: dict[bytes, list[tuple[int, int]]] = {}
        for one, pack, position in self._repository.index.places(kind, sorted(ids)):
            copies.setdefault(one, []).append((pack, position))
        for one in ids:
            places = copies.get(one)
            if places is None:
                missing(kind, one)
                continue
            pack, position = min(places, key=self._preferred)
            self.used.add(pack)
            bits = self._bits.setdefault(pack, bytearray(-(-self._counts[pack] // 8)))
            bits[position // 8] |= 1 << position % 8

    def _preferred(self, place: tuple[int, int]) -> tuple[bool, bool, int]:
        return place[0] in self._avoid, place[0] not in self.used, place[0]


@dataclass
class Repacker:
    """Repacks one repository; safe to run again after any failure, and beside writers.

    Memory: a pack three times, and the tables of the new packs.

    Args:
        repository: opened; the credential need not be able to delete.
        below: see ``REPACK_BELOW``.
        most_bytes: see ``MOST_BYTES``.
        cancel: looked at before each pack.
    """

    repository: Repository
    below: float = REPACK_BELOW
    most_bytes: int = MOST_BYTES
    cancel: CancelToken = field(default_factory=CancelToken)

    def run(self) -> RepackReport:
        """Copy what is needed out of packs that are mostly not; condemn those.

        Raises:
            IntegrityError: a live point cannot be read as a whole; nothing was changed.
            TransientError: another writer committed meanwhile; what was copied is removed by
                prunes. Run it again.
            StoppedError: a stop was asked for; as above.
        """
        head = self.repository.refresh()
        report, fresh = RepackReport(), list[Toc]()
        open_packs = {kind: PackBuilder(kind, self._pack_bytes) for kind in ChunkKind}
        for row, positions in self._worth_it(head):
            self.cancel.check()
            chunks = self._taken(row, positions)
            if chunks is None:
                report.damaged.append(row.name)
                continue
            for chunk in chunks:
                if not open_packs[row.kind].takes(chunk):
                    fresh.append(self._put(open_packs[row.kind], report))
                    open_packs[row.kind] = PackBuilder(row.kind, self._pack_bytes)
                open_packs[row.kind].add(chunk)
            report.packs.append(row.name)
            report.freed_bytes += row.size
            report.chunks += len(chunks)
        fresh += [self._put(builder, report) for builder in open_packs.values() if len(builder)]
        if fresh:
            self._publish(head, fresh, report)
        return report

    @property
    def _pack_bytes(self) -> int:
        return self.repository.options.pack_bytes

    # ------------------------------------------------------------------ choosing

    def _worth_it(self, head: Head) -> list[tuple[PackRow, list[int]]]:
        commit = head.commit
        leaving = {c.name for c in commit.condemned} | set(commit.doomed)
        marker = LiveChunks(self.repository, leaving)
        for ref in commit.points:
            for disk in self.repository.manifest(ref).disks:
                marker.mark(disk.tree, _refuse_missing)
        found = []
        for row in self.repository.index.packs():
            positions = marker.positions(row)
            if row.name not in leaving and 0 < len(positions) < self.below * row.chunks:
                found.append((len(positions) / row.chunks, row.name, row, positions))
        chosen: list[tuple[PackRow, list[int]]] = []
        size = 0
        for _, _, row, positions in sorted(found):
            size += row.size
            if size > self.most_bytes and chosen:
                break
            chosen.append((row, positions))
        return chosen

    # ------------------------------------------------------------------ copying

    def _taken(self, row: PackRow, positions: list[int]) -> list[SealedChunk] | None:
        """Those chunks of a pack, each proven by its id; None when one of them does not open."""
        repository, name = self.repository, row.name
        whole = repository.store.get(name)
        try:
            toc = read_toc(name, len(whole), lambda at, n: whole[at : at + n], repository.records)
            entries, chunks = list(toc.entries()), []
            for entry in (entries[position] for position in positions):
                sealed = whole[entry.offset : entry.offset + entry.length]
                repository.opened(row.kind, entry.id, Location(name, *entry[1:]), sealed)
                chunks.append(repacked(toc, entry, sealed))
        except (IntegrityError, IndexError):
            return None
        return chunks

    def _put(self, builder: PackBuilder, report: RepackReport) -> Toc:
        repository = self.repository
        toc, whole = builder.sealed(repository.records, repository.ring.entropy)
        repository.store.put(toc.pack, whole, lock_until=repository.locks.until())
        report.stored_bytes += len(whole)
        return toc

    # ------------------------------------------------------------------ publishing

    def _publish(self, head: Head, fresh: list[Toc], report: RepackReport) -> None:
        ref = self._put_index(fresh, report)
        for toc in fresh:
            info = self.repository.store.head(toc.pack)
            if info is None or info.size != toc.size:
                raise TransientError(f"{toc.pack} is gone from the store; run it again")
        now_ms = int(self.repository.clock.now().timestamp() * 1000)
        commit = head.commit
        fallen = tuple(Condemned(name, commit.seq + 1, now_ms) for name in sorted(report.packs))
        following = self.repository.log.publish_on(
            head,
            replace(
                commit,
                indexes=(*commit.indexes, ref),
                condemned=(*commit.condemned, *fallen),
            ),
        )
        if following is None:
            raise TransientError("another writer was faster; run it again")

    def _put_index(self, fresh: list[Toc], report: RepackReport) -> IndexRef:
        repository = self.repository
        name = index_name(repository.ring.entropy(RANDOM_BYTES))
        sealed = repository.records.seal(RecordKind.INDEX, name, encode_index(fresh))
        repository.store.put(name, sealed, lock_until=repository.locks.until())
        report.stored_bytes += len(sealed)
        return IndexRef(name, hashlib.sha256(sealed).digest())


def _refuse_missing(kind: ChunkKind, chunk: bytes) -> None:
    raise IntegrityError(
        f"{kind.name.lower()} {chunk.hex()} of a live point is in no pack of the index",
        next_step="run repository check before anything is repacked",
    )
