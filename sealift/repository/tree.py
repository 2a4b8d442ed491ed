"""The block map of a disk: a hash tree over the ids of its chunks. Pure.

A leaf holds 64 chunk ids, an inner node 64 ids of nodes below it. A node is a chunk itself,
named by its content, so that a subtree that did not change is the earlier point's subtree,
and a point is a root: there is no chain to replay. What reads as zeroes has the id of 32 zero
bytes, be it a chunk or a whole subtree, and is not stored.

Trees grow upwards: chunk 0 is always the first of the leftmost leaf, so a disk that grew keeps
every node it had.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from sealift.errors import IntegrityError
from sealift.units import KiB, MiB

FANOUT = 64
ID_BYTES = 32
ZERO_ID = bytes(ID_BYTES)
MIN_CHUNK_BYTES = 64 * KiB
MAX_CHUNK_BYTES = 4 * MiB
MAX_DISK_BYTES = 1 << 56
"""64 PiB: a tree of 7 levels at the smallest chunk."""
NODE_BYTES = FANOUT * ID_BYTES
MAX_ENCODED_BYTES = 9 + NODE_BYTES

_ZERO_NODE = bytes(NODE_BYTES)
_ALL = (1 << FANOUT) - 1

Load = Callable[[bytes], bytes]
"""Plaintext of the node with this id."""
Store = Callable[[bytes], bytes]
"""Stores the plaintext of a node; its id."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A disk's content.

    Attributes:
        size: bytes of the disk; what the last chunk holds beyond it is zero.
        chunk_size: bytes of a chunk, a power of two.
        root: id of the top node.
    """

    size: int
    chunk_size: int
    root: bytes

    def __post_init__(self) -> None:
        power_of_two = self.chunk_size & (self.chunk_size - 1) == 0
        if not power_of_two or not 512 <= self.chunk_size <= MAX_CHUNK_BYTES:
            raise ValueError(f"a chunk of {self.chunk_size} bytes")
        if not 0 < self.size <= MAX_DISK_BYTES or len(self.root) != ID_BYTES:
            raise ValueError(f"a disk of {self.size} bytes")

    @property
    def chunks(self) -> int:
        """How many the disk has."""
        return -(-self.size // self.chunk_size)

    @property
    def height(self) -> int:
        """Levels of nodes; at least one."""
        return _height(self.chunks)


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring chunks.

    Attributes:
        start: index of the first chunk.
        count: how many.
        ids: of each, 32 bytes after 32 bytes; None when all read as zeroes.
    """

    start: int
    count: int
    ids: bytes | None


def encode_node(level: int, ids: bytes | bytearray) -> bytes:
    """Plaintext of a node: its level, a bit for each id that is not zero, and those ids."""
    slots = [bytes(ids[at : at + ID_BYTES]) for at in range(0, NODE_BYTES, ID_BYTES)]
    bits = sum(1 << n for n, one in enumerate(slots) if one != ZERO_ID)
    return bytes([level]) + bits.to_bytes(8, "big") + b"".join(s for s in slots if s != ZERO_ID)


def decode_node(level: int, data: bytes) -> bytes:
    """The 64 ids of a node, zero ids included.

    Raises:
        IntegrityError: not a node of this level, or one that ``encode_node`` would not write.
    """
    if len(data) < 9 or data[0] != level:
        raise IntegrityError(f"not a node of level {level}")
    bits = int.from_bytes(data[1:9], "big")
    packed = data[9:]
    if not bits or len(packed) != bits.bit_count() * ID_BYTES:
        raise IntegrityError(f"a node of {len(data)} bytes does not hold the ids it names")
    if bits == _ALL:
        return packed
    ids, at = bytearray(NODE_BYTES), 0
    for slot in range(FANOUT):
        if bits >> slot & 1:
            ids[slot * ID_BYTES : (slot + 1) * ID_BYTES] = packed[at : at + ID_BYTES]
            at += ID_BYTES
    return bytes(ids)


def built(
    tree: Tree, changes: Iterable[tuple[int, bytes]], load: Load, store: Store, size: int = 0
) -> Tree:
    """A tree with other ids in some places; nodes that nothing changed in are kept as they are.

    Memory: one node for each level. Nodes are stored from the bottom up.

    Args:
        tree: to begin with; of root ``ZERO_ID`` for a new disk.
        changes: (chunk index, chunk id), ascending, each index once.
        load: reads nodes of ``tree``.
        store: stores new ones.
        size: bytes of the disk now, at least those of ``tree``; 0 = as it was.

    Raises:
        ValueError: an index beyond the disk, or not ascending; or the disk shrank.
    """
    if size and size < tree.size:
        raise ValueError(f"a tree of {tree.size} bytes does not shrink to {size}")
    grown = Tree(size or tree.size, tree.chunk_size, tree.root)
    root = tree.root
    for level in range(tree.height, grown.height):
        root = _lifted(level, root, store)
    root = _Builder(changes, grown.chunks, load, store).build(grown.height - 1, root)
    return Tree(grown.size, grown.chunk_size, root)


def _lifted(level: int, root: bytes, store: Store) -> bytes:
    """The node above a former root."""
    return ZERO_ID if root == ZERO_ID else store(encode_node(level, root.ljust(NODE_BYTES, b"\0")))


class _Builder:
    def __init__(
        self, changes: Iterable[tuple[int, bytes]], chunks: int, load: Load, store: Store
    ) -> None:
        self._changes = iter(changes)
        self._load, self._store = load, store
        self._chunks = chunks
        self._index, self._id = -1, b""
        self._advance()

    def build(self, level: int, root: bytes) -> bytes:
        built = self._node(level, 0, root)
        if self._index < self._chunks:
            raise ValueError(f"chunk {self._index} does not lie in the tree")
        return built

    def _advance(self) -> None:
        before = self._index
        self._index, self._id = next(self._changes, (self._chunks, b""))
        if self._index <= before or (self._id and self._index >= self._chunks):
            raise ValueError(f"chunk {self._index} after {before}, of {self._chunks}")

    def _node(self, level: int, first: int, old: bytes) -> bytes:
        span = FANOUT**level
        end = min(first + span * FANOUT, self._chunks)
        if self._index >= end:
            return old
        before = _ZERO_NODE if old == ZERO_ID else decode_node(level, self._load(old))
        ids = bytearray(before)
        while self._index < end:
            slot = (self._index - first) // span
            at = slot * ID_BYTES
            if level == 0:
                ids[at : at + ID_BYTES] = self._id
                self._advance()
            else:
                below = bytes(ids[at : at + ID_BYTES])
                ids[at : at + ID_BYTES] = self._node(level - 1, first + slot * span, below)
        if ids == before:
            return old
        return ZERO_ID if ids == _ZERO_NODE else self._store(encode_node(level, ids))


def runs(tree: Tree, load: Load, start: int = 0, end: int | None = None) -> Iterator[Run]:
    """Chunks ``start`` to ``end`` in order: a run for each leaf, and one for each zero subtree.

    Lazy; memory: one node for each level.
    """
    stop = tree.chunks if end is None else min(end, tree.chunks)
    if start < stop:
        yield from _runs(load, tree.height - 1, 0, tree.root, start, stop)


def _runs(load: Load, level: int, first: int, node: bytes, start: int, stop: int) -> Iterator[Run]:
    span = FANOUT**level
    low, high = max(start, first), min(stop, first + span * FANOUT)
    if node == ZERO_ID:
        yield Run(low, high - low, None)
        return
    ids = decode_node(level, load(node))
    if level == 0:
        part = ids[(low - first) * ID_BYTES : (high - first) * ID_BYTES]
        yield Run(low, high - low, part)
        return
    for slot in range((low - first) // span, -(-(high - first) // span)):
        below = ids[slot * ID_BYTES : (slot + 1) * ID_BYTES]
        yield from _runs(load, level - 1, first + slot * span, below, start, stop)


def nodes(
    tree: Tree, load: Load, enter: Callable[[bytes], bool]
) -> Iterator[tuple[int, bytes, bytes]]:
    """(level, id, the 64 ids in it) of every node that ``enter`` says yes to, top down.

    ``enter`` is asked once for each place of a node; below one that it refuses nothing is
    looked at, so that subtrees that were seen before cost nothing.
    """
    if tree.root != ZERO_ID:
        yield from _nodes(load, tree.height - 1, tree.root, enter)


def _nodes(
    load: Load, level: int, node: bytes, enter: Callable[[bytes], bool]
) -> Iterator[tuple[int, bytes, bytes]]:
    if not enter(node):
        return
    ids = decode_node(level, load(node))
    yield level, node, ids
    if level:
        for at in range(0, NODE_BYTES, ID_BYTES):
            below = ids[at : at + ID_BYTES]
            if below != ZERO_ID:
                yield from _nodes(load, level - 1, below, enter)


@dataclass(frozen=True, slots=True)
class _Ref:
    """A node and the level it is really of; a tree that is lower stands in slot 0 of each level."""

    id: bytes
    level: int


_NOTHING = _Ref(ZERO_ID, 0)


def changed(old: Tree, new: Tree, load: Load) -> Iterator[tuple[int, int]]:
    """(first chunk, count) of the ranges of ``new`` whose ids differ from those of ``old``.

    What lies beyond the end of ``old`` was zero. Subtrees that are the same node are not
    looked at, so the time is that of what changed. Neighbours are joined.

    Raises:
        ValueError: the trees have chunks of two sizes.
    """
    if old.chunk_size != new.chunk_size:
        raise ValueError("trees with chunks of two sizes")
    level = max(old.height, new.height) - 1
    refs = _ref(old), _ref(new)
    held: tuple[int, int] | None = None
    for start, count in _changed(load, level, 0, *refs, new.chunks):
        if held is not None and sum(held) == start:
            held = (held[0], held[1] + count)
            continue
        if held is not None:
            yield held
        held = (start, count)
    if held is not None:
        yield held


def added(old: Tree | None, new: Tree, load: Load) -> Iterator[tuple[int, bytes]]:
    """(level, id) of what ``new`` needs and ``old`` does not have in the same place.

    Level -1 is a chunk. Subtrees that are the same node are not looked at.
    """
    level = max(old.height if old else 1, new.height) - 1
    yield from _added(load, level, _ref(old) if old else _NOTHING, _ref(new))


def _added(load: Load, level: int, old: _Ref, new: _Ref) -> Iterator[tuple[int, bytes]]:
    if new in (old, _NOTHING):
        return
    if new.level == level:
        yield level, new.id
    if level:
        for _, was, now in _differing(load, level, old, new):
            yield from _added(load, level - 1, was, now)
        return
    before, after = _ids(load, 0, old), _ids(load, 0, new)
    for at in range(0, NODE_BYTES, ID_BYTES):
        one = after[at : at + ID_BYTES]
        if one not in (before[at : at + ID_BYTES], ZERO_ID):
            yield -1, one


def _ref(tree: Tree) -> _Ref:
    return _NOTHING if tree.root == ZERO_ID else _Ref(tree.root, tree.height - 1)


def _changed(
    load: Load, level: int, first: int, old: _Ref, new: _Ref, chunks: int
) -> Iterator[tuple[int, int]]:
    if old == new or first >= chunks:
        return
    span = FANOUT**level
    for slot, was, now in _differing(load, level, old, new):
        at = first + slot * span
        if at >= chunks:
            return
        if level == 0:
            yield at, 1
        else:
            yield from _changed(load, level - 1, at, was, now, chunks)


def _differing(load: Load, level: int, old: _Ref, new: _Ref) -> Iterator[tuple[int, _Ref, _Ref]]:
    """(slot, below the one, below the other) where two nodes, or what stands for one, differ."""
    if _stands_in(level, old) or _stands_in(level, new):
        pairs = zip(_below(load, level, old), _below(load, level, new), strict=True)
        yield from ((slot, was, now) for slot, (was, now) in enumerate(pairs) if was != now)
        return
    before, after = _ids(load, level, old), _ids(load, level, new)
    below = max(level - 1, 0)
    for slot, at in enumerate(range(0, NODE_BYTES, ID_BYTES)):
        one, other = before[at : at + ID_BYTES], after[at : at + ID_BYTES]
        if one != other:
            yield slot, _of(one, below), _of(other, below)


def _stands_in(level: int, ref: _Ref) -> bool:
    return ref.level < level and ref != _NOTHING


def _ids(load: Load, level: int, ref: _Ref) -> bytes:
    return _ZERO_NODE if ref == _NOTHING else decode_node(level, load(ref.id))


def _of(one: bytes, level: int) -> _Ref:
    return _NOTHING if one == ZERO_ID else _Ref(one, level)


def _below(load: Load, level: int, ref: _Ref) -> list[_Ref]:
    if ref == _NOTHING:
        return [_NOTHING] * FANOUT
    if ref.level < level:
        return [ref] + [_NOTHING] * (FANOUT - 1)
    ids, below = _ids(load, level, ref), max(level - 1, 0)
    return [_of(ids[at : at + ID_BYTES], below) for at in range(0, NODE_BYTES, ID_BYTES)]


def _height(chunks: int) -> int:
    height, reach = 1, FANOUT
    while reach < chunks:
        height, reach = height + 1, reach * FANOUT
    return height
