"""One connection: one command in flight, a deadline on each, bytes straight into place.

A long read is one command in several requests at once: the server reads on while we take
the bytes of the piece before.
"""

from itertools import count

from connectors.nbd import protocol
from connectors.nbd.failures import read_failure, write_failure
from connectors.nbd.handshake import Endpoint, Negotiated, negotiate
from connectors.nbd.neighbours import READ_REQUEST_BYTES
from connectors.nbd.protocol import Command, ExportFlag, NbdErrno, Status, WireError
from connectors.nbd.replies import Read, ReplyReader
from connectors.nbd.transport import Transport
from sealift.cancel import CancelToken
from sealift.clock import Clock
from sealift.errors import ConnectionLostError, SealiftError, SourceError
from sealift.units import KiB, round_down

_SLOWEST_BYTES_PER_SECOND = 64 * KiB
"""Slower than this is a hang: 1 MiB gets 16 s above the base deadline."""


class Connection:
    """An export in the transmission phase. One thread at a time, except ``abort``.

    ``usable`` turns False with the first failure that leaves replies in doubt; then only
    ``close`` is left. An error that the server reported for one request does not.

    ``server`` is what answers.

    Args:
        endpoint: where to; connected at once.
        clock: time.
        cancel: a stop ends the request in flight and the connection with it.

    Raises:
        See ``handshake.negotiate``.
    """

    def __init__(self, endpoint: Endpoint, clock: Clock, cancel: CancelToken) -> None:
        self._transport: Transport
        self._transport, self._negotiated = negotiate(endpoint, clock, cancel)
        self.server = self._transport.server
        self._replies = ReplyReader(self._transport, structured=self._negotiated.structured)
        self._what = str(endpoint)
        self._unfragmented = endpoint.unfragmented
        self._read_flags = self._flags_of_reads()
        self._deadline_seconds = endpoint.deadline_seconds
        self._cookies = count(1)
        self._ids = frozenset(context.id for context in self._negotiated.contexts)
        self.usable = True

    @property
    def negotiated(self) -> Negotiated:
        """What the server agreed to."""
        return self._negotiated

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill ``view``; aligned and within the server's limits, which the caller ensures.

        Raises:
            SourceReadError: this range cannot be read; the connection is usable.
            ConnectionLostError, ProtocolError, StoppedError: it is not.
        """
        failed = self._read(offset, view, self._read_flags)
        too_long = failed is not None and failed[1].errno == NbdErrno.EOVERFLOW
        if too_long and self._read_flags and not self._unfragmented:
            failed = self._read(offset, view, 0)
        if failed is not None:
            piece, error = failed
            raise self._read_failure(error, piece.offset, len(piece.view))

    def block_status(self, offset: int, length: int) -> dict[str, Status]:
        """Status per context name, over all negotiated contexts.

        Raises as ``read_into``.
        """
        with self._exchange(0):
            cookie = self._request(Command.BLOCK_STATUS, offset, length)
            answer = self._replies.status(cookie, self._ids)
        if isinstance(answer, WireError):
            raise self._read_failure(answer, offset, length)
        return {context.name: answer[context.id] for context in self._negotiated.contexts}

    def write(self, offset: int, view: memoryview) -> None:
        """Write; aligned and within the server's limits, which the caller ensures.

        Raises:
            TargetError: refused; the connection is usable.
            ConnectionLostError, ProtocolError, StoppedError: it is not.
        """
        self._command(Command.WRITE, offset, len(view), view)

    def zero(self, offset: int, length: int) -> None:
        """Make the range read as zeroes, punching a hole where the server can."""
        self._command(Command.WRITE_ZEROES, offset, length)

    def flush(self) -> None:
        """Make every answered write durable."""
        self._command(Command.FLUSH, 0, 0)

    def abort(self) -> None:
        """End it from any thread; who waits in it gets ``ConnectionLostError``."""
        self.usable = False
        self._transport.abort()

    def close(self) -> None:
        """Say good-bye when in a state to, and close; idempotent."""
        if self.usable:
            self.usable = False
            self._say_goodbye()
        self._transport.close()

    def _say_goodbye(self) -> None:
        try:
            self._transport.arm(self._deadline_seconds)
            self._transport.send(protocol.request(Command.DISCONNECT, next(self._cookies)))
        except SealiftError:
            return

    def _read(self, offset: int, view: memoryview, flags: int) -> tuple[Read, WireError] | None:
        """The first piece that the server could not read; the others were read."""
        one = self._request_bytes(len(view))
        pieces = {
            next(self._cookies): Read(offset + at, view[at : at + one])
            for at in range(0, len(view), one)
        }
        with self._exchange(len(view)):
            self._transport.send(
                *(
                    protocol.request(Command.READ, cookie, piece.offset, len(piece.view), flags)
                    for cookie, piece in pieces.items()
                )
            )
            self._replies.reads(pieces)
        errors = ((piece, piece.error) for piece in pieces.values())
        return next(((piece, error) for piece, error in errors if error is not None), None)

    def _request_bytes(self, length: int) -> int:
        most = round_down(self._negotiated.blocks.maximum, READ_REQUEST_BYTES)
        return min(self.server.request_bytes(length), most) or length

    def _command(
        self, command: Command, offset: int, length: int, payload: memoryview | None = None
    ) -> None:
        with self._exchange(length if payload is not None else 0):
            cookie = self._request(command, offset, length, payload)
            error = self._replies.plain(cookie)
        if error is not None:
            failure = write_failure(error, self._what, offset, length)
            self.usable = self.usable and not isinstance(failure, ConnectionLostError)
            raise failure

    def _flags_of_reads(self) -> int:
        """Reads are asked for in one piece wherever the server can.

        QEMU answers a read in pieces that fails half-way by closing the connection, and
        one in one piece by an error (nbd_co_send_sparse_read, seen in 7.2).
        """
        if not self._negotiated.structured:
            return 0  # simple replies are in one piece anyway
        if ExportFlag.SEND_DF in self._negotiated.flags:
            return protocol.DONT_FRAGMENT
        if self._unfragmented:
            self._transport.close()
            raise SourceError(f"{self._what} cannot answer reads in one piece")
        return 0

    def _request(
        self,
        command: Command,
        offset: int,
        length: int,
        payload: memoryview | None = None,
    ) -> int:
        cookie = next(self._cookies)
        header = protocol.request(command, cookie, offset, length)
        self._transport.send(header, payload if payload is not None else b"")
        return cookie

    def _exchange(self, payload_bytes: int) -> "_Exchange":
        self._transport.arm(self._deadline_seconds + payload_bytes / _SLOWEST_BYTES_PER_SECOND)
        return _Exchange(self)

    def _read_failure(self, error: WireError, offset: int, length: int) -> SealiftError:
        failure = read_failure(error, self._what, offset, length)
        self.usable = self.usable and not isinstance(failure, ConnectionLostError)
        return failure


class _Exchange:
    """Marks the connection unusable when a request ends anywhere but at its reply's end."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        if not self._connection.usable:
            raise ValueError("the connection is not usable any more")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._connection.usable = False
