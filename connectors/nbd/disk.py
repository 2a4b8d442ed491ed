"""An NBD export as ``DiskReader`` and as ``DiskWriter``."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from connectors.nbd.address import NbdAddress
from connectors.nbd.connection import Connection
from connectors.nbd.extents import StatusSource, walk
from connectors.nbd.handshake import Endpoint
from connectors.nbd.lanes import lanes_to
from connectors.nbd.neighbours import READ_REQUEST_BYTES
from connectors.nbd.pool import ConnectionPool
from connectors.nbd.protocol import (
    BASE_ALLOCATION,
    DIRTY_BITMAP_PREFIX,
    MAX_STRING_BYTES,
    ExportFlag,
    Status,
)
from connectors.nbd.tls import TlsSettings
from sealift.cancel import CancelToken
from sealift.clock import Clock, SystemClock
from sealift.disk import Unwritten, WriterCaps
from sealift.errors import (
    SealiftError,
    TargetDeniedError,
    TargetError,
    TrackingLostError,
    UsageError,
)
from sealift.extents import Extent, coalesce
from sealift.units import KiB, MiB, round_down

MAX_REQUEST_BYTES = 1 * MiB
"""Longest write."""
MAX_IN_FLIGHT_BYTES = 16 * MiB
"""Of reads, over all connections; above it qemu-nbd halves its speed."""
MAX_CONNECTIONS = 16
_ZERO_STEP_BYTES = 128 * MiB  # longest zero request, for its deadline's sake


def _same(error: SealiftError) -> SealiftError:
    return error


class NbdReader:
    """An export that does not change while we read it (I1); see ``DiskReader``.

    Memory: two blocks of the server's smallest size per call; data goes from the socket
    into the caller's buffer.

    Args:
        address: where the server listens.
        export: name of the export.
        identity: names the instant; the caller knows what is exported.
        dirty_bitmap: name of the QEMU bitmap that says what changed; makes the reader
            incremental.
        connections: most connections at once, up to 16; one if the server wants only one.
        deadline_seconds: for connecting, and for every request, plus its size at 64 KiB/s.
        tls: demanded when given.
        clock: time for deadlines.
        cancel: a stop ends requests in flight.
        unfragmented: see ``handshake.Endpoint``; for an export whose holes may be filled
            while they are told.
        on_read_error: turns an error of ``read_into`` and ``extents`` into the one to raise;
            for a source that knows why its export fails.

    Raises:
        TrackingLostError: the server does not have the bitmap (I9).
        SourceError, ProtocolError, ConnectionLostError: see ``handshake.negotiate``.
    """

    def __init__(
        self,
        address: NbdAddress,
        *,
        identity: str,
        export: str = "",
        dirty_bitmap: str | None = None,
        connections: int = 4,
        deadline_seconds: float = 60.0,
        tls: TlsSettings | None = None,
        clock: Clock | None = None,
        cancel: CancelToken | None = None,
        unfragmented: bool = False,
        on_read_error: Callable[[SealiftError], SealiftError] = _same,
    ) -> None:
        self._dirty = None if dirty_bitmap is None else _dirty_context(dirty_bitmap)
        contexts = (BASE_ALLOCATION,) if self._dirty is None else (BASE_ALLOCATION, self._dirty)
        endpoint = Endpoint(address, export, contexts, tls, deadline_seconds, unfragmented)
        self._pool = _pool(endpoint, connections, clock, cancel)
        self._lanes = lanes_to(self._pool.server, self._pool.limit, clock or SystemClock())
        self._identity = identity
        self._on_read_error = on_read_error
        self._have = {context.name for context in self._pool.negotiated.contexts}
        self._minimum = self._pool.negotiated.blocks.minimum
        self._longest = _longest_read(self._pool, self._minimum)
        try:
            self._check_tracking(endpoint)
        except TrackingLostError:
            self.close()
            raise

    @property
    def size(self) -> int:
        """See ``DiskReader.size``."""
        return self._pool.negotiated.size

    @property
    def identity(self) -> str:
        """See ``DiskReader.identity``."""
        return self._identity

    @property
    def incremental(self) -> bool:
        """See ``DiskReader.incremental``."""
        return self._dirty is not None

    @property
    def connections(self) -> int:
        """How many requests can be in flight at once."""
        return self._pool.limit

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        """See ``DiskReader.extents``."""
        _check_range(start, length, self.size)
        source = StatusSource(
            self._block_status, self.size, self._minimum, self._dirty, BASE_ALLOCATION in self._have
        )
        return coalesce(walk(source, start, length))

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See ``DiskReader.read_into``."""
        _check_range(offset, buffer.nbytes, self.size)
        with (
            self._explained(),
            buffer.cast("B") as view,
            self._lane(len(view)),
            self._pool.borrow() as connection,
        ):
            position = 0
            while position < len(view):
                with view[position:] as rest:
                    position += self._read_some(connection, offset + position, rest)

    def abort(self) -> None:
        """Cut every connection, from any thread; requests in flight fail."""
        self._pool.close()

    def close(self) -> None:
        """See ``DiskReader.close``; no request may be in flight."""
        self._pool.close()

    def _lane(self, length: int) -> AbstractContextManager[None]:
        return nullcontext() if self._lanes is None else self._lanes.hold(length)

    def _read_some(self, connection: Connection, offset: int, view: memoryview) -> int:
        """Read one request's worth; returns how much of ``view`` it filled."""
        if offset % self._minimum or len(view) < self._minimum:
            return self._read_partial_block(connection, offset, view)
        length = round_down(min(len(view), self._longest), self._minimum)
        with view[:length] as part:
            connection.read_into(offset, part)
        return length

    def _read_partial_block(self, connection: Connection, offset: int, view: memoryview) -> int:
        start = round_down(offset, self._minimum)
        block = memoryview(bytearray(min(self._minimum, self.size - start)))
        connection.read_into(start, block)
        skipped = offset - start
        length = min(len(view), len(block) - skipped)
        view[:length] = block[skipped : skipped + length]
        return length

    def _block_status(self, offset: int, length: int) -> dict[str, Status]:
        with self._explained(), self._pool.borrow() as connection:
            return connection.block_status(offset, length)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except SealiftError as error:
            better = self._on_read_error(error)
            if better is error:
                raise
            raise better from error

    def _check_tracking(self, endpoint: Endpoint) -> None:
        if self._dirty is not None and self._dirty not in self._have:
            raise TrackingLostError(
                f"{endpoint} does not have {self._dirty}",
                next_step="copy in full",
                context=self._dirty,
            )


class NbdWriter:
    """An export under construction; see ``DiskWriter``.

    Who can connect to the server sees what is written before ``commit``; so give the
    export to nobody else (I6). ``abort`` leaves the content: an export cannot be removed
    over NBD.

    What the server acknowledged and did not flush may be gone when a connection breaks or
    a flush fails, and nobody can tell. From then on every call raises ``TargetError``: a
    new process starts from what its journal has seen flushed.

    Args:
        address: where the server listens.
        export: name of the export.
        identity: names the disk under construction.
        unwritten: what ranges read as that nobody writes; the caller knows.
        block_size: grid in bytes, a multiple of the server's smallest block.
        max_op_bytes: longest write.
        connections: most connections at once, up to 16; one if the server wants only one.
        deadline_seconds: as for ``NbdReader``.
        tls: demanded when given.
        clock: time for deadlines.
        cancel: a stop ends requests in flight.

    Raises:
        TargetDeniedError: the export is read-only.
        TargetError: it cannot flush, or the block size does not fit.
        SourceError, ProtocolError, ConnectionLostError: see ``handshake.negotiate``.
    """

    def __init__(
        self,
        address: NbdAddress,
        *,
        identity: str,
        unwritten: Unwritten,
        export: str = "",
        block_size: int = 64 * KiB,
        max_op_bytes: int = 1 * MiB,
        connections: int = 4,
        deadline_seconds: float = 60.0,
        tls: TlsSettings | None = None,
        clock: Clock | None = None,
        cancel: CancelToken | None = None,
    ) -> None:
        endpoint = Endpoint(address, export, (), tls, deadline_seconds)
        self._what = str(endpoint)
        self._pool = _pool(endpoint, connections, clock, cancel)
        self._identity = identity
        self._books = _Durability(self._what)
        try:
            self._check_fit(block_size)
        except TargetError:
            self.close()
            raise
        self._longest = _longest_request(self._pool, self._pool.negotiated.blocks.minimum)
        self._caps = WriterCaps(
            size=self._pool.negotiated.size,
            block_size=block_size,
            unwritten=unwritten,
            max_op_bytes=max(block_size, round_down(max_op_bytes, block_size)),
            native_zero=ExportFlag.SEND_WRITE_ZEROES in self._pool.negotiated.flags,
            concurrency=self._pool.limit,
        )

    @property
    def caps(self) -> WriterCaps:
        """See ``DiskWriter.caps``."""
        return self._caps

    @property
    def identity(self) -> str:
        """See ``DiskWriter.identity``."""
        return self._identity

    def write(self, offset: int, data: memoryview, digests: Sequence[bytes]) -> None:
        """See ``DiskWriter.write``."""
        self._check_grid(offset, data.nbytes)
        if digests or data.nbytes > self._caps.max_op_bytes:
            raise ValueError("digests were not asked for, or the write is too long")
        with data.cast("B") as view, self._changing() as connection:
            for at in range(0, len(view), self._longest):
                with view[at : at + self._longest] as part:
                    connection.write(offset + at, part)

    def zero(self, offset: int, length: int) -> None:
        """See ``DiskWriter.zero``."""
        self._check_grid(offset, length)
        if not self._caps.native_zero:
            raise ValueError("the server cannot zero")
        with self._changing() as connection:
            for at in range(offset, offset + length, _ZERO_STEP_BYTES):
                connection.zero(at, min(_ZERO_STEP_BYTES, offset + length - at))

    def flush(self) -> None:
        """See ``DiskWriter.flush``."""
        with self._books.flushing(), self._pool.borrow() as connection:
            connection.flush()

    def commit(self, blocks: Iterable[tuple[int, bytes]]) -> None:
        """See ``DiskWriter.commit``; flushes."""
        if any(True for _ in blocks):
            raise ValueError("digests were not asked for")
        self.flush()

    def abort(self) -> None:
        """See ``DiskWriter.abort``; nothing can be removed, the connections end."""
        self._pool.close()

    def close(self) -> None:
        """See ``DiskWriter.close``."""
        self._pool.close()

    @contextmanager
    def _changing(self) -> Iterator[Connection]:
        with self._pool.borrow() as connection, self._books.changing(connection):
            yield connection

    def _check_fit(self, block_size: int) -> None:
        negotiated = self._pool.negotiated
        if ExportFlag.READ_ONLY in negotiated.flags:
            raise TargetDeniedError(f"{self._what} is read-only")
        if ExportFlag.SEND_FLUSH not in negotiated.flags:
            raise TargetError(f"{self._what} cannot flush: writes could be lost unseen")
        if block_size % negotiated.blocks.minimum or negotiated.size % negotiated.blocks.minimum:
            raise TargetError(
                f"{self._what} wants blocks of {negotiated.blocks.minimum} bytes, "
                f"not {block_size} over {negotiated.size}"
            )

    def _check_grid(self, offset: int, length: int) -> None:
        _check_range(offset, length, self._caps.size)
        block = self._caps.block_size
        if offset % block or (length % block and offset + length != self._caps.size):
            raise ValueError(f"{length} bytes at {offset} are not on the grid of {block}")


class _Durability:
    """Knows whether acknowledged writes may have been lost.

    Counts operations: started, failed, and flushed, which is how many had completed
    when the last successful flush began. The rest hangs on the server being alive.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._lock = threading.Lock()
        self._started = self._completed = self._failed = self._flushed = 0
        self._lost = False

    @contextmanager
    def changing(self, connection: Connection) -> Iterator[None]:
        """Around one write or zero."""
        with self._lock:
            self._check_locked()
            self._started += 1
        try:
            yield
        except BaseException:
            with self._lock:
                self._failed += 1
                self._lost |= not connection.usable and self._hanging_locked()
            raise
        with self._lock:
            self._completed += 1

    @contextmanager
    def flushing(self) -> Iterator[None]:
        """Around one flush.

        A failed flush is never repeated: a kernel reports a lost page once and then calls
        it clean (the "fsyncgate" of PostgreSQL, 2018).
        """
        with self._lock:
            self._check_locked()
            mark = self._completed
        try:
            yield
        except BaseException:
            with self._lock:
                self._lost |= self._hanging_locked()
            raise
        with self._lock:
            self._flushed = max(self._flushed, mark)

    def _hanging_locked(self) -> bool:
        return self._started - self._failed - self._flushed > 0

    def _check_locked(self) -> None:
        if self._lost:
            raise TargetError(
                f"{self._what}: writes that were not flushed yet may be lost",
                next_step="run the same command again: it goes on from what was flushed",
            )


def _pool(
    endpoint: Endpoint, connections: int, clock: Clock | None, cancel: CancelToken | None
) -> ConnectionPool:
    used_clock, used_cancel = clock or SystemClock(), cancel or CancelToken()
    limit = min(connections, MAX_CONNECTIONS)
    return ConnectionPool(lambda: Connection(endpoint, used_clock, used_cancel), limit, used_cancel)


def _longest_read(pool: ConnectionPool, minimum: int) -> int:
    """How much one borrower asks for at once; in pieces, so the server has to take those."""
    if pool.negotiated.blocks.maximum < READ_REQUEST_BYTES:
        return _longest_request(pool, minimum)
    share = round_down(MAX_IN_FLIGHT_BYTES // pool.limit, READ_REQUEST_BYTES)
    return min(share, pool.server.read_bytes)


def _longest_request(pool: ConnectionPool, minimum: int) -> int:
    """A multiple of ``minimum``; at least one block even from a server with odd limits."""
    longest = min(MAX_REQUEST_BYTES, pool.negotiated.blocks.maximum)
    return max(minimum, round_down(longest, minimum))


def _dirty_context(bitmap: str) -> str:
    name = DIRTY_BITMAP_PREFIX + bitmap
    if not bitmap or len(name.encode()) > MAX_STRING_BYTES:
        raise UsageError("a bitmap's name is empty or too long")
    return name


def _check_range(offset: int, length: int, size: int) -> None:
    if offset < 0 or length < 0 or offset + length > size:
        raise ValueError(f"{length} bytes at {offset} do not lie within {size} bytes")
