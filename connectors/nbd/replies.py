"""Receiving replies: a strict state machine over one command in flight.

A read is one command in several requests, which are answered in any order; everything
else is one request.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping

from connectors.nbd import protocol
from connectors.nbd.protocol import ChunkHeader, ChunkType, Status, WireError
from connectors.nbd.transport import Transport
from sealift.errors import ProtocolError
from sealift.units import MiB

_ZEROES = memoryview(bytes(MiB))
_MAX_CHUNKS = 1 << 17
"""Chunks per reply: a 32 MiB read of alternating 512-byte data and holes has 65,536."""


_STRUCTURED_HEAD_BYTES = protocol.REPLY_MAGIC.size + protocol.CHUNK_HEADER.size
_SIMPLE_HEAD_BYTES = protocol.REPLY_MAGIC.size + protocol.SIMPLE_REPLY.size


class Coverage:
    """Which bytes of a read have arrived; every byte exactly once."""

    def __init__(self, offset: int, length: int) -> None:
        self._offset, self._end = offset, offset + length
        self._parts: list[tuple[int, int]] = []
        self._missing = length

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return self._missing == 0

    def add(self, offset: int, length: int) -> int:
        """Book a part; returns its position in the buffer.

        Raises:
            ProtocolError: it lies outside the request, or arrived before.
        """
        end = offset + length
        if length <= 0 or offset < self._offset or end > self._end:
            raise ProtocolError(f"{length} bytes at {offset} lie outside of the request")
        index = bisect_right(self._parts, (offset, end))
        before = self._parts[index - 1] if index else None
        after = self._parts[index] if index < len(self._parts) else None
        if (before and before[1] > offset) or (after and after[0] < end):
            raise ProtocolError(f"{length} bytes at {offset} arrived twice")
        self._insert(index, offset, end, before, after)
        self._missing -= length
        return offset - self._offset

    def _insert(
        self,
        index: int,
        start: int,
        end: int,
        before: tuple[int, int] | None,
        after: tuple[int, int] | None,
    ) -> None:
        first, last = index, index
        if before and before[1] == start:
            first, start = index - 1, before[0]
        if after and after[0] == end:
            last, end = index + 1, after[1]
        self._parts[first:last] = [(start, end)]


class Read:
    """One read request in flight, and what has arrived of it.

    Args:
        offset: in bytes on the disk.
        view: where the bytes go.

    ``error`` is what the server reported; without it, after ``ReplyReader.reads``, the
    view is full.
    """

    def __init__(self, offset: int, view: memoryview) -> None:
        self.offset = offset
        self.view = view
        self.coverage = Coverage(offset, len(view))
        self.error: WireError | None = None
        self.chunks = 0


class ReplyReader:
    """Reads the replies to one command.

    Every method returns None or the error that the server reported, and leaves the
    connection at the start of the next reply. After any exception the connection is
    unusable.
    """

    def __init__(self, transport: Transport, *, structured: bool) -> None:
        self._transport = transport
        self._structured = structured

    def plain(self, cookie: int) -> WireError | None:
        """Reply to a request that returns nothing; may be simple or structured."""
        if self._magic() == protocol.SIMPLE_REPLY_MAGIC:
            return self._simple(cookie)
        error: WireError | None = None
        for chunk in self._chunks(cookie, first_magic_read=True):
            if not chunk.is_error and chunk.type != ChunkType.NONE:
                raise ProtocolError(f"chunk of type {chunk.type} in a reply without content")
            error = self._error(chunk) or error
        return error

    def data(self, cookie: int, offset: int, view: memoryview) -> WireError | None:
        """Reply to a read: the whole view is filled, or an error is returned."""
        read = Read(offset, view)
        self.reads({cookie: read})
        return read.error

    def reads(self, requests: Mapping[int, Read]) -> None:
        """Replies to reads, by cookie, in whatever order they come: full, or with an error.

        The head of the next reply is taken along with the bytes of one: it says where the
        next bytes go, and they go there in one call, in whatever order the server answers.
        """
        waiting = dict(requests)
        one = self._structured_read if self._structured else self._simple_read
        while waiting:
            one(waiting)

    def _simple_read(self, waiting: dict[int, Read]) -> None:
        self._expect(protocol.SIMPLE_REPLY_MAGIC, ahead=protocol.SIMPLE_REPLY.size)
        raw = self._transport.receive(protocol.SIMPLE_REPLY.size)
        errno, cookie = protocol.parse_simple_reply(raw)
        read = waiting.pop(cookie, None)
        if read is None:
            raise ProtocolError("reply to a request that was not made")
        if errno:
            read.error = WireError(errno)
        else:
            self._transport.receive_into(read.view, ahead=_SIMPLE_HEAD_BYTES if waiting else 0)

    def _structured_read(self, waiting: dict[int, Read]) -> None:
        """One chunk of one of the replies."""
        self._expect(protocol.STRUCTURED_REPLY_MAGIC, ahead=protocol.CHUNK_HEADER.size)
        chunk = protocol.parse_chunk(self._transport.receive(protocol.CHUNK_HEADER.size))
        read = waiting.get(chunk.cookie)
        if read is None:
            raise ProtocolError("reply to a request that was not made")
        read.chunks += 1
        if read.chunks > _MAX_CHUNKS:
            raise ProtocolError(f"more than {_MAX_CHUNKS} chunks in one reply")
        if chunk.done:
            del waiting[chunk.cookie]
        read.error = self._content(chunk, read, more=bool(waiting)) or read.error
        if chunk.done and read.error is None and not read.coverage.complete:
            raise ProtocolError("a read was answered in part, without an error")

    def status(self, cookie: int, ids: frozenset[int]) -> dict[int, Status] | WireError:
        """Reply to a block status: exactly one status for each of ``ids``."""
        found: dict[int, Status] = {}
        error: WireError | None = None
        for chunk in self._chunks(cookie):
            if chunk.type == ChunkType.BLOCK_STATUS:
                status = protocol.parse_status(self._payload(chunk, _STATUS_BYTES))
                if status.context_id not in ids or status.context_id in found:
                    raise ProtocolError(f"block status of context {status.context_id}")
                found[status.context_id] = status
            else:
                self._expect_no_content(chunk)
                error = self._error(chunk) or error
        if error is None and found.keys() != ids:
            raise ProtocolError("block status of some contexts is missing")
        return error or found

    def _content(self, chunk: ChunkHeader, read: Read, *, more: bool) -> WireError | None:
        if chunk.type == ChunkType.OFFSET_DATA:
            self._data_chunk(chunk, read, _STRUCTURED_HEAD_BYTES if more else 0)
            return None
        if chunk.type == ChunkType.OFFSET_HOLE:
            offset, length = protocol.parse_hole(self._payload(chunk, protocol.HOLE.size))
            position = read.coverage.add(offset, length)
            _fill_zero(read.view[position : position + length])
            return None
        self._expect_no_content(chunk)
        return self._error(chunk)

    def _data_chunk(self, chunk: ChunkHeader, read: Read, ahead: int) -> None:
        """Bytes of a read; those of a whole one come in one call with their offset."""
        length = chunk.length - protocol.OFFSET.size
        if not 0 < length <= len(read.view):
            raise ProtocolError(f"data chunk of {chunk.length} bytes for {len(read.view)} asked")
        if length == len(read.view):
            raw = bytearray(protocol.OFFSET.size)
            self._transport.receive_into(read.view, before=raw, ahead=ahead)
            (offset,) = protocol.OFFSET.unpack(raw)
            read.coverage.add(offset, length)
            return
        (offset,) = protocol.OFFSET.unpack(self._transport.receive(protocol.OFFSET.size))
        position = read.coverage.add(offset, length)
        self._transport.receive_into(read.view[position : position + length], ahead=ahead)

    def _chunks(self, cookie: int, *, first_magic_read: bool = False) -> Iterator[ChunkHeader]:
        for number in range(_MAX_CHUNKS):
            if number or not first_magic_read:
                self._expect(protocol.STRUCTURED_REPLY_MAGIC)
            header = self._transport.receive(protocol.CHUNK_HEADER.size)
            chunk = protocol.parse_chunk(header)
            if chunk.cookie != cookie:
                raise ProtocolError("reply to a request that was not made")
            yield chunk
            if chunk.done:
                return
        raise ProtocolError(f"more than {_MAX_CHUNKS} chunks in one reply")

    def _error(self, chunk: ChunkHeader) -> WireError | None:
        if not chunk.is_error:
            return None
        payload = self._payload(chunk, protocol.MAX_ERROR_PAYLOAD_BYTES)
        return protocol.parse_error(payload, chunk.type)

    def _payload(self, chunk: ChunkHeader, limit: int) -> bytes:
        if chunk.length > limit:
            raise ProtocolError(f"chunk of {chunk.length} bytes; at most {limit} make sense")
        return self._transport.receive(chunk.length)

    def _expect_no_content(self, chunk: ChunkHeader) -> None:
        if not chunk.is_error and chunk.type != ChunkType.NONE:
            raise ProtocolError(f"unexpected chunk of type {chunk.type}")

    def _simple(self, cookie: int) -> WireError | None:
        raw = self._transport.receive(protocol.SIMPLE_REPLY.size)
        errno, answered = protocol.parse_simple_reply(raw)
        if answered != cookie:
            raise ProtocolError("reply to a request that was not made")
        return WireError(errno) if errno else None

    def _magic(self, ahead: int = 0) -> int:
        raw = self._transport.receive(protocol.REPLY_MAGIC.size, ahead=ahead)
        magic: int = protocol.REPLY_MAGIC.unpack(raw)[0]
        if magic == protocol.SIMPLE_REPLY_MAGIC:
            return magic
        if magic == protocol.STRUCTURED_REPLY_MAGIC and self._structured:
            return magic
        raise ProtocolError(f"reply that starts with {magic:#x}")

    def _expect(self, wanted: int, ahead: int = 0) -> None:
        magic = self._magic(ahead)
        if magic != wanted:
            raise ProtocolError(f"reply that starts with {magic:#x}, {wanted:#x} was due")


_STATUS_BYTES = protocol.MAX_STATUS_PAYLOAD_BYTES


def _fill_zero(view: memoryview) -> None:
    for start in range(0, len(view), len(_ZEROES)):
        part = view[start : start + len(_ZEROES)]
        part[:] = _ZEROES[: len(part)]
