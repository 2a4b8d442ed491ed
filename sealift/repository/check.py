"""Is everything there, and does it open? What is damaged is named, with the points that need it."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from sealift.errors import IntegrityError, ObjectMissingError, PointLostError
from sealift.repository.commits import PointRef
from sealift.repository.index import Location, PackRow
from sealift.repository.packer import read_index
from sealift.repository.packs import Entry, Toc, read_toc
from sealift.repository.points import PointManifest
from sealift.repository.session import MAX_INDEX_OBJECT_BYTES, Repository
from sealift.repository.tree import ID_BYTES, NODE_BYTES, ZERO_ID, Tree, decode_node
from sealift.repository.walk import NodeLoader, SeenNodes
from sealift.sealing.chunks import ChunkKind


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that is missing or does not open.

    Attributes:
        what: a pack, the table of one, a chunk, a node or a manifest, by its name.
        why: one sentence.
        points: ids of the live points that cannot be restored as a whole because of it.
    """

    what: str
    why: str
    points: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What a check found.

    Attributes:
        points: live points that were looked at.
        packs: packs that they need.
        read_packs: packs that were read as a whole, every chunk opened and hashed.
        read_chunks: chunks in those.
        damage: empty when all is well.
    """

    points: int
    packs: int
    read_packs: int
    read_chunks: int
    damage: tuple[Damage, ...]

    @property
    def lost_points(self) -> tuple[bytes, ...]:
        """Points that cannot be restored as a whole."""
        return tuple(dict.fromkeys(point for one in self.damage for point in one.points))


@dataclass
class _Findings:
    """Damage while it is found: names of what is bad, and why."""

    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    nodes: dict[bytes, str] = field(default_factory=dict)
    chunks: dict[bytes, str] = field(default_factory=dict)
    packs: dict[str, str] = field(default_factory=dict)
    tables: dict[str, str] = field(default_factory=dict)


class Checker:
    """Checks the head of a repository; changes nothing.

    Args:
        repository: opened.
        read_share: of the needed packs that are read as a whole, 0 to 1.
        rng: chooses them.
    """

    def __init__(
        self, repository: Repository, *, read_share: float = 0.0, rng: random.Random | None = None
    ) -> None:
        self._repository = repository
        self._share = read_share
        self._rng = rng or random.Random()  # noqa: S311 - chooses a sample
        self._loader = NodeLoader(repository)
        self._found = _Findings()
        self._needed: set[str] = set()
        self._read_chunks = 0

    def run(self) -> CheckReport:
        """Look at everything that the live points need.

        Raises:
            RepositoryRolledBackError, IntegrityError: there is no head to look at, or its
                index is damaged.
        """
        refs = self._repository.refresh().commit.points
        manifests = [(ref, m) for ref in refs if (m := self._manifest(ref)) is not None]
        seen = SeenNodes(self._repository)
        for _, manifest in manifests:
            for disk in manifest.disks:
                self._walk(disk.tree.height - 1, disk.tree.root, seen)
        packs = {row.name: row for row in self._repository.index.packs()}
        needed = [packs[name] for name in sorted(self._needed & packs.keys())]
        for row in needed:
            self._look(row)
        bad = self._found.packs.keys() | self._found.tables.keys()
        read = self._sample([row for row in needed if row.name not in bad])
        for row in read:
            self._read(row)
        damage = tuple(self._damage(manifests))
        return CheckReport(len(refs), len(needed), len(read), self._read_chunks, damage)

    # ------------------------------------------------------------------ structure

    def _manifest(self, ref: PointRef) -> PointManifest | None:
        try:
            return self._repository.manifest(ref)
        except (IntegrityError, PointLostError) as error:
            self._found.manifests[ref.manifest] = (error.message, ref.id)
            return None

    def _walk(self, level: int, node: bytes, seen: SeenNodes) -> None:
        if node == ZERO_ID or not seen.add(node):
            return
        self._need(ChunkKind.NODE, {node})
        try:
            ids = decode_node(level, self._loader.load(node))
        except IntegrityError as error:
            self._found.nodes[node] = error.message
            return
        below = {ids[at : at + ID_BYTES] for at in range(0, NODE_BYTES, ID_BYTES)} - {ZERO_ID}
        if level == 0:
            self._need(ChunkKind.DATA, below)
        else:
            for one in sorted(below):
                self._walk(level - 1, one, seen)

    def _need(self, kind: ChunkKind, ids: set[bytes]) -> None:
        packs, missing = self._repository.index.packs_of(kind, ids)
        self._needed |= packs
        if kind is ChunkKind.DATA:
            self._found.chunks.update((one, "it is in no pack of the index") for one in missing)

    # ------------------------------------------------------------------ packs

    def _look(self, row: PackRow) -> None:
        info = self._repository.store.head(row.name)
        if info is None:
            self._found.packs[row.name] = "it is missing"
        elif info.size != row.size:
            self._read_by_index(row, f"it has {info.size} bytes, not {row.size}")

    def _sample(self, rows: list[PackRow]) -> list[PackRow]:
        wanted = len(rows) if self._share >= 1 else round(len(rows) * self._share)
        if self._share > 0 and rows:
            wanted = max(1, wanted)
        return sorted(self._rng.sample(rows, wanted))

    def _read(self, row: PackRow) -> None:
        try:
            whole = self._repository.store.get(row.name)
        except (IntegrityError, ObjectMissingError) as error:
            self._found.packs[row.name] = error.message
            return
        try:
            toc = read_toc(
                row.name,
                len(whole),
                lambda at, length: whole[at : at + length],
                self._repository.records,
            )
        except IntegrityError as error:
            self._read_by_index(row, error.message)
            return
        for entry in toc.entries():
            self._open(toc, entry, whole)

    def _read_by_index(self, row: PackRow, why: str) -> None:
        """Its own table is not to be trusted; which of its chunks are good is found one by one."""
        self._found.tables[row.name] = why
        whole = self._repository.store.get(row.name)
        for ref in self._repository.head.commit.indexes:
            tocs = read_index(
                self._repository.store, self._repository.records, ref, MAX_INDEX_OBJECT_BYTES
            )
            for toc in tocs:
                if toc.pack == row.name:
                    for entry in toc.entries():
                        self._open(toc, entry, whole)

    def _open(self, toc: Toc, entry: Entry, whole: bytes) -> None:
        self._read_chunks += 1
        sealed = whole[entry.offset : entry.offset + entry.length]
        try:
            self._repository.opened(toc.kind, entry.id, Location(toc.pack, *entry[1:]), sealed)
        except IntegrityError as error:
            held = self._found.nodes if toc.kind is ChunkKind.NODE else self._found.chunks
            held[entry.id] = f"{error.message} (in {toc.pack})"

    # ------------------------------------------------------------------ who needs it

    def _damage(self, manifests: list[tuple[PointRef, PointManifest]]) -> Iterator[Damage]:
        for name, (why, point) in self._found.manifests.items():
            yield Damage(name, why, (point,))
        for name, why in self._found.tables.items():
            yield Damage(name, why, ())
        bad = self._found
        if not (bad.nodes or bad.chunks or bad.packs):
            return
        reach = _Reach(self._repository, self._loader, bad)
        needs: dict[str, list[bytes]] = {}
        for ref, manifest in manifests:
            for what in sorted({w for d in manifest.disks for w in reach.of(d.tree)}):
                needs.setdefault(what, []).append(ref.id)
        reasons = dict(bad.packs)
        reasons |= {f"node {n.hex()}": why for n, why in bad.nodes.items()}
        reasons |= {f"chunk {n.hex()}": why for n, why in bad.chunks.items()}
        for what in sorted(reasons):
            yield Damage(what, reasons[what], tuple(needs.get(what, ())))


class _Reach:
    """What is damaged below a node; each node is looked at once."""

    def __init__(self, repository: Repository, loader: NodeLoader, bad: _Findings) -> None:
        self._repository, self._loader, self._bad = repository, loader, bad
        self._below: dict[bytes, frozenset[str]] = {}

    def of(self, tree: Tree) -> frozenset[str]:
        return self._node(tree.height - 1, tree.root)

    def _node(self, level: int, node: bytes) -> frozenset[str]:
        if node == ZERO_ID:
            return frozenset()
        found = self._below.get(node)
        if found is None:
            found = self._below[node] = frozenset(self._look(level, node))
        return found

    def _look(self, level: int, node: bytes) -> set[str]:
        found = self._in_packs(ChunkKind.NODE, {node})
        if node in self._bad.nodes:
            return found | {f"node {node.hex()}"}
        ids = decode_node(level, self._loader.load(node))
        below = {ids[at : at + ID_BYTES] for at in range(0, NODE_BYTES, ID_BYTES)} - {ZERO_ID}
        if level == 0:
            found |= {f"chunk {one.hex()}" for one in below if one in self._bad.chunks}
            return found | self._in_packs(ChunkKind.DATA, below)
        return found.union(*(self._node(level - 1, one) for one in below))

    def _in_packs(self, kind: ChunkKind, ids: set[bytes]) -> set[str]:
        if not self._bad.packs:
            return set()
        packs, _ = self._repository.index.packs_of(kind, ids)
        return packs & self._bad.packs.keys()
