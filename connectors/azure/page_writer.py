"""Writes the staging page blob of one disk."""

from collections.abc import Iterable, Sequence

from connectors.azure.actions import WRITE
from connectors.azure.errors import azure_call, field_of
from connectors.azure.leases import is_not_held, lease_lost
from connectors.azure.staging import Staging
from sealift.digest import BLAKE3, is_zero
from sealift.disk import Unwritten, WriterCaps
from sealift.endpoints import SnapshotRef
from sealift.errors import TargetError, TransientError
from sealift.units import KiB, MiB

BLOCK_BYTES = 64 * KiB
"""The granularity of QEMU's dirty bitmaps; the service's own grid is 512 bytes ("Put Page")."""
MAX_PUT_BYTES = 4 * MiB
"""Longest Put Page ("Put Page", header Range); clearing has no such limit."""


class PageBlobWriter:
    """A point of one disk under construction.

    Put pages are durable when the call returns (the service has them three times), each is
    checked by the service against its CRC64, and each is refused when the lease of this point
    is not ours any more. Readers see blob snapshots only, and there is none of this point
    before ``commit`` (I6). Memory: beside the callers' buffers a copy of one write during each
    call. Safe in any number of threads.

    Args:
        staging: finds and changes staging blobs of the migration.
        ref: the pending point.
        has_parent: whether what nobody writes reads as the parent or as zeroes.
        concurrency: most calls in flight.

    Raises:
        TargetError: it is not under construction.
        LockedError: somebody else holds the blob.
    """

    def __init__(
        self, staging: Staging, ref: SnapshotRef, *, has_parent: bool, concurrency: int
    ) -> None:
        self._staging = staging
        self._ref = ref
        self._name, seq = staging.parsed(ref.id)
        self._generation = staging.generation(ref.id)
        self._lease = staging.owner.lease_id(self._name, seq)
        self._blob = staging.clients.blob(self._name)
        self._pages = staging.clients.pages
        self._caps = WriterCaps(
            size=ref.size,
            block_size=BLOCK_BYTES,
            unwritten=Unwritten.BASE if has_parent else Unwritten.ZERO,
            max_op_bytes=MAX_PUT_BYTES,
            native_zero=True,
            durable_writes=True,
            concurrency=concurrency,
            first_calls=concurrency,  # 4 MiB a call, sent without the interpreter's lock
            digest=BLAKE3,
        )

    @property
    def caps(self) -> WriterCaps:
        """See ``DiskWriter.caps``."""
        return self._caps

    @property
    def identity(self) -> str:
        """Account, container, point and generation: another one for bytes begun anew."""
        return f"page-blob:{self._blob.account_name}:{self._ref.id}:{self._generation}"

    def write(self, offset: int, data: memoryview, digests: Sequence[bytes]) -> None:
        """Put pages; a range of nothing but zeroes is cleared instead.

        Raises:
            TransientError: unknown whether it took effect; repeat it.
            LockedError: somebody else holds the blob.
            TargetError: the blob is gone, or its account is full.
        """
        length = len(data)
        self._check(offset, length)
        if not 0 < length <= MAX_PUT_BYTES:
            raise ValueError(f"a write of {length} bytes; at most {MAX_PUT_BYTES}")
        if is_zero(data):
            self.zero(offset, length)
            return
        with self._call():
            self._pages.put(self._blob.url, offset, bytes(data), self._lease)

    def zero(self, offset: int, length: int) -> None:
        """Clear pages, in one call however many; they read as zeroes."""
        self._check(offset, length)
        with self._call(), azure_call(WRITE):
            answer = self._blob.clear_page(offset, length, lease=self._lease)
            field_of(answer, "etag", WRITE)

    def _check(self, offset: int, length: int) -> None:
        whole = offset % BLOCK_BYTES == 0 and length % 512 == 0
        if not whole or offset < 0 or offset + length > self._caps.size:
            raise ValueError(f"{length} bytes at {offset} are off the grid or past the end")

    def _call(self) -> "_LeaseErrors":
        return _LeaseErrors(self._name)

    def flush(self) -> None:
        """Nothing to do: a confirmed page is durable."""

    def commit(self, blocks: Iterable[tuple[int, bytes]]) -> None:
        """Write the VHD footer and take the blob snapshot that is the point; see ``Staging``.

        Raises:
            TargetError: somebody else gave the point up or began it anew.
            TransientError: unknown whether it took effect; call it again.
        """
        self._staging.commit(self._ref.id, self._generation)

    def abort(self) -> None:
        """Give the point up; what it wrote is overwritten before the next one."""
        self._staging.delete(self._ref.id)

    def close(self) -> None:
        """Nothing is held; connections belong to the target, and the lease to the point."""


class _LeaseErrors:
    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, TargetError) and is_not_held(error):
            raise lease_lost(self._name, error) from None
        if isinstance(error, TargetError) and error.operands.get("azure_code") in _DAMAGED:
            raise TransientError(error.message, blob=self._name) from None


_DAMAGED = frozenset({"Md5Mismatch", "InvalidMd5", "Crc64Mismatch"})
"""The body arrived as another than it was sent."""
