"""The ids in a tree by chunk index, leaf by leaf."""

from sealift.digest import Digest
from sealift.repository.tree import FANOUT, ID_BYTES, ZERO_ID, Load, Tree, runs

_LEAVES_KEPT = 256
_NO_IDS = bytes(FANOUT * ID_BYTES)


class TreeIds:
    """Chunk ids of one disk. Thread-safe; memory: 256 leaves of 2 KiB.

    Args:
        tree: of the disk.
        load: reads its nodes.
    """

    def __init__(self, tree: Tree, load: Load) -> None:
        self._tree, self._load = tree, load
        self._leaves: dict[int, bytes] = {}

    def __getitem__(self, index: int) -> bytes:
        """The id of a chunk; ``ZERO_ID`` beyond the disk."""
        number, slot = divmod(index, FANOUT)
        leaf = self._leaves.get(number)
        if leaf is None:
            leaf = self._read(number)
        return leaf[slot * ID_BYTES : (slot + 1) * ID_BYTES]

    def _read(self, number: int) -> bytes:
        found = list(runs(self._tree, self._load, number * FANOUT, (number + 1) * FANOUT))
        leaf = (found[0].ids or b"") if found else b""
        leaf = leaf.ljust(len(_NO_IDS), b"\0")
        if len(self._leaves) >= _LEAVES_KEPT:
            self._leaves = {}
        self._leaves[number] = leaf
        return leaf


class TreeBlocks:
    """What a point's disk is known to hold, for a writer on top of it: ``KnownBlocks``.

    Args:
        tree: of the disk.
        load: reads its nodes.
        digest: of a block; what a block of zeroes has is not in the tree.
    """

    def __init__(self, tree: Tree, load: Load, digest: Digest) -> None:
        self.block_size = tree.chunk_size
        self.digest = digest
        self._ids = TreeIds(tree, load)
        self._zero = digest.of(bytes(tree.chunk_size))

    def __getitem__(self, index: int) -> bytes | None:
        """See ``KnownBlocks``; every block is known."""
        found = self._ids[index]
        return self._zero if found == ZERO_ID else found
