"""All nodes of many trees, for prune and check: node packs are read whole, a few at a time."""

from collections import OrderedDict
from collections.abc import Callable, Iterable

from sealift.errors import IntegrityError, ObjectMissingError
from sealift.repository.index import Location
from sealift.repository.session import Repository
from sealift.repository.tree import ID_BYTES, NODE_BYTES, ZERO_ID, Tree, nodes
from sealift.sealing.chunks import ChunkKind
from sealift.units import KiB

_PACKS_KEPT = 3
"""Node packs in memory, 96 MiB: a tree is stored in order, so neighbours share a pack."""
_REQUEST_BYTES = 256 * KiB
"""What costs as much to read as a request: a pack is read whole once it was asked that often for
single nodes. Where many points changed a little each, neighbours do not share a pack."""
NODES_SEEN = 1_000_000
"""Nodes that are told apart by their ids, as a full disk of 3 TiB has them; more by their place."""


class NodeLoader:
    """Loads nodes out of whole packs. Not thread-safe.

    Args:
        repository: opened.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._packs: OrderedDict[str, bytes] = OrderedDict()
        self._asked: dict[str, int] = {}

    def load(self, node: bytes) -> bytes:
        """Plaintext of a node.

        Raises:
            IntegrityError: it is missing or damaged; names it.
        """
        where = self._repository.index.find(ChunkKind.NODE, [node]).get(node)
        if where is None:
            raise IntegrityError(f"node {node.hex()} is in no pack of the index")
        try:
            sealed = self._sealed(where)
        except ObjectMissingError as error:
            raise IntegrityError(f"{where.pack} is missing") from error
        return self._repository.opened(ChunkKind.NODE, node, where, sealed)

    def _sealed(self, where: Location) -> bytes:
        whole = self._packs.get(where.pack)
        if whole is None:
            asked = self._asked[where.pack] = self._asked.get(where.pack, 0) + 1
            if asked * _REQUEST_BYTES < self._repository.index.pack_size(where.pack):
                return self._repository.store.get(where.pack, where.offset, where.length)
            whole = self._packs[where.pack] = self._repository.store.get(where.pack)
            self._asked[where.pack] = 0
            if len(self._packs) > _PACKS_KEPT:
                self._packs.popitem(last=False)
        self._packs.move_to_end(where.pack)
        return whole[where.offset : where.offset + where.length]


class SeenNodes:
    """Which nodes were seen: exactly, and in bounded memory. Not thread-safe.

    Memory: 110 bytes for each of ``NODES_SEEN`` nodes, and one bit for each more.

    Args:
        repository: opened.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._seen: set[bytes] = set()
        self._bits: dict[int, bytearray] = {}

    def add(self, node: bytes) -> bool:
        """Whether the node is seen for the first time."""
        if node in self._seen:
            return False
        if len(self._seen) >= NODES_SEEN:
            place = min(self._repository.index.places(ChunkKind.NODE, [node]), default=None)
            if place is not None:
                return self._mark(*place[1:])
        self._seen.add(node)
        return True

    def _mark(self, pack: int, position: int) -> bool:
        bits = self._bits.setdefault(pack, bytearray())
        at, bit = position >> 3, 1 << (position & 7)
        bits.extend(bytes(max(0, at + 1 - len(bits))))
        new = not bits[at] & bit
        bits[at] |= bit
        return new


class Marker:
    """Which packs a set of trees needs.

    Memory: see ``NodeLoader`` and ``SeenNodes``.

    Args:
        repository: opened, its head followed.
        avoid: packs that are only used for what no other pack has.
    """

    def __init__(self, repository: Repository, avoid: Iterable[str]) -> None:
        self._repository = repository
        self._loader = NodeLoader(repository)
        self._seen = SeenNodes(repository)
        names = {row.name: row.no for row in repository.index.packs()}
        self._avoid = {names[name] for name in avoid if name in names}
        self.used: set[int] = set()

    def mark(self, tree: Tree, missing: Callable[[ChunkKind, bytes], None]) -> None:
        """Mark the packs of a tree; subtrees that were marked before cost nothing.

        Args:
            tree: of a live disk.
            missing: told of every node and chunk that no pack of the index holds.

        Raises:
            IntegrityError: a node cannot be read.
        """
        for level, node, ids in nodes(tree, self._loader.load, self._seen.add):
            self._use(ChunkKind.NODE, {node}, missing)
            if level == 0:
                slots = {ids[at : at + ID_BYTES] for at in range(0, NODE_BYTES, ID_BYTES)}
                self._use(ChunkKind.DATA, slots - {ZERO_ID}, missing)

    def _use(
        self, kind: ChunkKind, ids: set[bytes], missing: Callable[[ChunkKind, bytes], None]
    ) -> None:
        copies: dict[bytes, list[int]] = {}
        for one, pack, _ in self._repository.index.places(kind, sorted(ids)):
            copies.setdefault(one, []).append(pack)
        for one in ids:
            packs = copies.get(one)
            if packs is None:
                missing(kind, one)
            elif self.used.isdisjoint(packs):
                self.used.add(min(packs, key=lambda no: (no in self._avoid, no)))
