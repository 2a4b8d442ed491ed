"""A disk of a recovery point: ``DiskReader``."""

from collections.abc import Iterator

from sealift.extents import Extent, Kind, coalesce
from sealift.repository.blocks import TreeIds
from sealift.repository.fetch import ChunkFetcher
from sealift.repository.session import Repository
from sealift.repository.tree import ID_BYTES, ZERO_ID, Run, Tree, changed, runs


class RepositoryReader:
    """Reads a disk of a point; every chunk is proven by its id before it is handed out.

    Memory: see ``ChunkFetcher``.

    Args:
        repository: opened.
        tree: of the disk.
        identity: names point and disk.
        base: the disk of an earlier point; ranges that are equal in both are CLEAN.
    """

    def __init__(
        self, repository: Repository, tree: Tree, identity: str, base: Tree | None = None
    ) -> None:
        if base is not None and base.chunk_size != tree.chunk_size:
            base = None
        self._repository, self._tree, self._identity, self._base = repository, tree, identity, base
        self._ids = TreeIds(tree, repository.load_node)
        self._fetcher = ChunkFetcher(repository, self._ids, tree.chunks, tree.chunk_size)

    @property
    def size(self) -> int:
        """See ``DiskReader.size``."""
        return self._tree.size

    @property
    def identity(self) -> str:
        """See ``DiskReader.identity``."""
        return self._identity

    @property
    def incremental(self) -> bool:
        """See ``DiskReader.incremental``."""
        return self._base is not None

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        """See ``DiskReader.extents``; from the tree alone, no chunk is read."""
        self._check(start, length)
        return coalesce(self._clipped(start, start + length))

    def _clipped(self, start: int, end: int) -> Iterator[Extent]:
        chunk = self._tree.chunk_size
        if start == end:
            return
        for first, count, kind in self._kinds(start // chunk, -(-end // chunk)):
            low, high = max(start, first * chunk), min(end, (first + count) * chunk)
            yield Extent(low, high - low, kind)

    def _kinds(self, first: int, after: int) -> Iterator[tuple[int, int, Kind]]:
        """(first chunk, count, kind) over a range of chunks, in order."""
        if self._base is None:
            yield from self._contents(first, after)
            return
        at = first
        for start, count in changed(self._base, self._tree, self._repository.load_node):
            low, high = max(start, first), min(start + count, after)
            if low >= high:
                continue
            if low > at:
                yield at, low - at, Kind.CLEAN
            yield from self._contents(low, high)
            at = high
        if at < after:
            yield at, after - at, Kind.CLEAN

    def _contents(self, first: int, after: int) -> Iterator[tuple[int, int, Kind]]:
        for run in runs(self._tree, self._repository.load_node, first, after):
            yield from _kinds_of(run)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See ``DiskReader.read_into``.

        Raises:
            IntegrityError: a chunk is damaged or missing; names it and its pack.
        """
        self._check(offset, len(buffer))
        self._fetcher.read_into(offset, buffer)

    def close(self) -> None:
        """See ``DiskReader.close``; the repository is the caller's."""
        self._fetcher.drop()

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or offset + length > self._tree.size:
            raise ValueError(f"{length} bytes at {offset} of {self._tree.size}")


def _kinds_of(run: Run) -> Iterator[tuple[int, int, Kind]]:
    if run.ids is None:
        yield run.start, run.count, Kind.ZERO
        return
    for n in range(run.count):
        zero = run.ids[n * ID_BYTES : (n + 1) * ID_BYTES] == ZERO_ID
        yield run.start + n, 1, Kind.ZERO if zero else Kind.DATA
