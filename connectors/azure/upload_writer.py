"""Writes a managed disk that is in upload, through an address that has to be renewed."""

import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

from connectors.azure.names import footer_id
from connectors.azure.page_put import PageSender
from connectors.azure.page_writer import BLOCK_BYTES, MAX_PUT_BYTES
from connectors.azure.uploads import GRANT_SECONDS, Uploads
from converters.vhd import fixed_footer
from sealift.clock import Clock
from sealift.digest import BLAKE3, is_zero
from sealift.disk import Unwritten, WriterCaps
from sealift.endpoints import SnapshotRef, SnapshotState
from sealift.errors import CredentialsError, TargetDeniedError, TransientError

_FOOTER_CREATED = datetime(2020, 1, 1, tzinfo=UTC)
_MOST_REFUSALS = 5
"""Refused addresses in a row, over all threads, before it counts as a missing permission."""


class _Address:
    """The write address of a disk: renewed at half of its life, and when it is refused."""

    def __init__(self, grant: Callable[[], str], clock: Clock) -> None:
        self._grant = grant
        self._clock = clock
        self._lock = threading.Lock()
        self._url = ""
        self._until = 0.0
        self._refusals = 0

    def now(self) -> str:
        """One that is good for a while."""
        with self._lock:
            if not self._url or self._clock.monotonic() >= self._until:
                self._url = self._grant()
                self._until = self._clock.monotonic() + GRANT_SECONDS / 2
            return self._url

    def worked(self) -> None:
        """The service took it."""
        self._refusals = 0

    def refused(self, url: str) -> bool:
        """Whether it may be another one's turn; False when renewing does not help."""
        with self._lock:
            if self._url == url:
                self._url = ""
                self._refusals += 1
            return self._refusals <= _MOST_REFUSALS

    def forget(self) -> None:
        """Ask for a new one next time."""
        with self._lock:
            self._url = ""


class UploadWriter:
    """A managed disk in upload.

    Put pages are durable when the call returns, each is checked by the service against its
    CRC64. An address that is refused in mid-stream, because it expired or somebody took it
    back, is renewed and the write repeated by the engine. Any process may go on. Memory: as
    ``PageBlobWriter``. Safe in any number of threads.

    Args:
        uploads: grants addresses, seals.
        ref: the disk.
        pages: sends pages.
        clock: for the life of an address.
        concurrency: most calls in flight.
    """

    def __init__(
        self,
        uploads: Uploads,
        ref: SnapshotRef,
        pages: PageSender,
        clock: Clock,
        *,
        concurrency: int,
    ) -> None:
        self._uploads = uploads
        self._ref = ref
        self._pages = pages
        self._address = _Address(lambda: uploads.grant(ref.id, write=True), clock)
        self._caps = WriterCaps(
            size=ref.size,
            block_size=BLOCK_BYTES,
            unwritten=Unwritten.ZERO,
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
        """The disk's id: one disk is uploaded once."""
        return f"upload:{self._ref.id}"

    def write(self, offset: int, data: memoryview, digests: Sequence[bytes]) -> None:
        """Put pages; a range of nothing but zeroes is cleared instead.

        Raises:
            TransientError: unknown whether it took effect, or the address was refused.
            TargetError: the upload is over.
        """
        length = len(data)
        self._check(offset, length)
        if not 0 < length <= MAX_PUT_BYTES:
            raise ValueError(f"a write of {length} bytes; at most {MAX_PUT_BYTES}")
        if is_zero(data):
            self.zero(offset, length)
            return
        whole = bytes(data)
        self._sent(lambda url: self._pages.put_signed(url, offset, whole))

    def zero(self, offset: int, length: int) -> None:
        """Clear pages; they read as zeroes."""
        self._check(offset, length)
        self._sent(lambda url: self._pages.clear_signed(url, offset, length))

    def _sent(self, send: Callable[[str], None]) -> None:
        url = self._address.now()
        try:
            send(url)
        except (CredentialsError, TargetDeniedError) as error:
            if not self._address.refused(url):
                raise
            self._check_in_upload()
            raise TransientError(
                f"the write address of disk {self._uploads.name_of(self._ref.id)} was refused "
                f"({error.operands.get('azure_code', '')}); it is renewed"
            ) from None
        self._address.worked()

    def _check_in_upload(self) -> None:
        """Renewing is of no use once the upload was ended: the disk takes no bytes any more."""
        if self._uploads.state(self._ref.id) is not SnapshotState.PENDING:
            raise self._uploads.ended(self._uploads.name_of(self._ref.id))

    def _check(self, offset: int, length: int) -> None:
        whole = offset % BLOCK_BYTES == 0 and length % 512 == 0
        if not whole or offset < 0 or offset + length > self._caps.size:
            raise ValueError(f"{length} bytes at {offset} are off the grid or past the end")

    def flush(self) -> None:
        """Nothing to do: a confirmed page is durable."""

    def commit(self, blocks: Iterable[tuple[int, bytes]]) -> None:
        """Write the VHD footer, seal the disk and end the upload; idempotent.

        Raises:
            TargetError: somebody else ended the upload.
            TransientError: not complete yet; call it again.
        """
        if self._uploads.state(self._ref.id) is SnapshotState.PENDING:
            footer = fixed_footer(
                self._ref.size, unique_id=footer_id(self._ref.id), created=_FOOTER_CREATED
            )
            self._sent(lambda url: self._pages.put_signed(url, self._ref.size, footer))
        self._uploads.seal(self._ref.id)
        self._address.forget()

    def abort(self) -> None:
        """End the upload and delete the disk; fine when it is gone."""
        self._uploads.delete(self._ref.id)

    def close(self) -> None:
        """Nothing is held; the disk stays in upload for a later process, until it is deleted."""
