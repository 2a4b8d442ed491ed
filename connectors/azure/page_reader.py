"""Reads a point of a staging page blob: a blob snapshot."""

from collections.abc import Callable, Iterator

from azure.storage.blob import BlobClient

from connectors.azure.actions import READ
from connectors.azure.chain import Point
from connectors.azure.errors import MissingError, azure_call
from connectors.azure.session import AzureClients
from sealift.errors import PointLostError, TransientError
from sealift.extents import Extent, Kind, coalesce
from sealift.units import GiB, MiB

_WINDOW_BYTES = 4 * GiB
""""Get Page Ranges" may time out on a large, fragmented blob; asking for parts is the remedy."""
_RANGE_BYTES = 4 * MiB
"""Longest range that Get Blob answers with its MD5 ("Get Blob")."""


class PageBlobReader:
    """A blob snapshot as a disk (I1). Never-written and cleared ranges are ZERO.

    Memory: one range of 4 MiB per call of ``read_into``, 10,000 page ranges per listing.

    Args:
        blob: the snapshot, or an uploaded disk.
        size: bytes of the disk, without the footer.
        name: of the instant, for people; the same whenever it is opened.
        base: the service's name of an earlier snapshot of the same blob, to be incremental.
        on_close: gives back what the reader holds.
    """

    def __init__(
        self,
        blob: BlobClient,
        size: int,
        name: str,
        base: str | None = None,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self._blob = blob
        self._size = size
        self._name = name
        self._base = base
        self._on_close = on_close

    @property
    def size(self) -> int:
        """Bytes of the disk, whole MiB."""
        return self._size

    @property
    def identity(self) -> str:
        """Account, blob, snapshot and base."""
        since = f" since {self._base}" if self._base else ""
        return f"page-blob:{self._name}{since}"

    @property
    def incremental(self) -> bool:
        """Whether a base was given."""
        return self._base is not None

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        """See ``DiskReader.extents``; a listing per 4 GiB.

        Raises:
            PointLostError: the snapshot is gone.
            TransientError: repeat it.
        """
        self._check_range(start, length)
        return coalesce(self._windows(start, start + length))

    def _windows(self, start: int, end: int) -> Iterator[Extent]:
        for first in range(start, end, _WINDOW_BYTES):
            last = min(first + _WINDOW_BYTES, end)
            yield from self._window(first, last)

    def _window(self, start: int, end: int) -> Iterator[Extent]:
        other = Kind.ZERO if self._base is None else Kind.CLEAN
        at = start
        for first, last, cleared in self._ranges(start, end):
            first, last = max(first, at), min(last, end)
            if last <= first:
                continue
            if first > at:
                yield Extent(at, first - at, other)
            yield Extent(first, last - first, Kind.ZERO if cleared else Kind.DATA)
            at = last
        if at < end:
            yield Extent(at, end - at, other)

    def _ranges(self, start: int, end: int) -> list[tuple[int, int, bool]]:
        """(first byte, byte after the last, whether cleared), ascending."""
        first = start // 512 * 512
        last = -(-end // 512) * 512
        try:
            with azure_call(READ):
                pages = self._blob.list_page_ranges(
                    offset=first,
                    length=last - first,
                    previous_snapshot=self._base,
                )
                return sorted((int(r.start or 0), int(r.end or 0) + 1, r.cleared) for r in pages)
        except MissingError as error:
            raise self._lost(error) from None

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See ``DiskReader.read_into``; every range is checked against the service's MD5.

        Raises:
            PointLostError: the snapshot is gone.
            TransientError: repeat it.
        """
        self._check_range(offset, len(buffer))
        for at in range(0, len(buffer), _RANGE_BYTES):
            part = buffer[at : at + _RANGE_BYTES]
            part[:] = self._range(offset + at, len(part))

    def _range(self, offset: int, length: int) -> bytes:
        try:
            with azure_call(READ):
                data = self._blob.download_blob(
                    offset, length, validate_content="md5", max_concurrency=1
                ).readall()
        except MissingError as error:
            raise self._lost(error) from None
        if len(data) != length:
            raise TransientError(f"{len(data)} of {length} bytes at {offset} arrived")
        return data

    def _lost(self, error: MissingError) -> PointLostError:
        return PointLostError(f"point {self._name} is gone: {error.message}", point=self._name)

    def _check_range(self, start: int, length: int) -> None:
        if start < 0 or length < 0 or start + length > self.size:
            raise ValueError(f"{length} bytes at {start} are not within {self.size}")

    def close(self) -> None:
        """Give back what is held; connections belong to the target. Idempotent."""
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()


def point_reader(clients: AzureClients, point: Point, base: Point | None = None) -> PageBlobReader:
    """The reader of a blob snapshot.

    Raises:
        ValueError: the base is of another blob.
    """
    if base is not None and base.blob != point.blob:
        raise ValueError(f"{base.blob} and {point.blob} have no common history")
    blob = clients.blob(point.blob, point.stamp)
    name = f"{blob.account_name}:{point.blob}@{point.stamp}"
    return PageBlobReader(blob, point.size, name, base.stamp if base else None)
