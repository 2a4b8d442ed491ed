"""NBD: negotiation, replies, block status, addresses; over a socket that is a list of bytes."""

import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import cast
from unittest import mock

from connectors.nbd import handshake, protocol
from connectors.nbd.address import UnixAddress, parse_uri
from connectors.nbd.connection import Connection
from connectors.nbd.extents import StatusSource, walk
from connectors.nbd.handshake import Endpoint, list_contexts
from connectors.nbd.protocol import ChunkType, ExportFlag, Option
from connectors.nbd.replies import Read, ReplyReader
from connectors.nbd.transport import Transport
from sealift.cancel import CancelToken
from sealift.clock import Clock
from sealift.errors import ConnectionLostError, ProtocolError, SourceError, UsageError
from sealift.testing.clock import VirtualClock
from sealift.units import MiB
from tests.fuzz.engine import Target
from tests.fuzz.mutate import Parts

_BITMAP = f"{protocol.DIRTY_BITMAP_PREFIX}b"
_ENDPOINT = Endpoint(
    UnixAddress(Path("/nbd")), "disk", contexts=(protocol.BASE_ALLOCATION, _BITMAP)
)
_SIZE = 8 * MiB
_GREETING = protocol.GREETING.pack(protocol.GREETING_MAGIC, protocol.OPTION_MAGIC, 3)
_CLOCK, _CANCEL = VirtualClock(), CancelToken()


class FedSocket:
    """Receives what it was made with, then the end; takes whatever is sent."""

    family = socket.AF_UNIX

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._at = 0

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        """Credentials of a peer that nobody can see."""
        return bytes(size)

    def settimeout(self, seconds: float | None) -> None:
        """Nothing ever blocks."""

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        """Nor does it wait."""

    def recv_into(self, view: memoryview, count: int = 0, flags: int = 0) -> int:
        count = min(len(view), len(self._data) - self._at)
        view[:count] = self._data[self._at : self._at + count]
        self._at += count
        return count

    def recvmsg_into(
        self, buffers: list[bytearray | memoryview], space: int = 0, flags: int = 0
    ) -> tuple[int, list[object], int, None]:
        """One buffer after the other."""
        count = sum(self.recv_into(memoryview(buffer)) for buffer in buffers)
        return count, [], 0, None

    def sendmsg(self, parts: list[memoryview]) -> int:
        return sum(map(len, parts))

    def shutdown(self, how: int) -> None:
        """Nobody waits."""

    def close(self) -> None:
        """Nothing is held."""


def _transport(data: bytes) -> Transport:
    made = Transport(cast("socket.socket", FedSocket(data)), "peer", _CLOCK, _CANCEL)
    made.arm(60)
    return made


class _Feed:
    """Stands in for connecting: whoever connects next gets these bytes."""

    def __init__(self) -> None:
        self.data = b""

    def connect(
        self, address: object, clock: Clock, cancel: CancelToken, timeout_seconds: float
    ) -> Transport:
        return _transport(self.data)

    @contextmanager
    def around(self) -> Iterator[None]:
        with mock.patch.object(handshake, "connect", self.connect):
            yield


def _option(code: Option, kind: int, payload: bytes = b"") -> bytes:
    return (
        protocol.OPTION_REPLY_HEADER.pack(protocol.OPTION_REPLY_MAGIC, code, kind, len(payload))
        + payload
    )


def _export(flags: int = 0x17F) -> bytes:
    return _option(Option.GO, 3, struct.pack(">HQH", 0, _SIZE, flags))


def _contexts(code: Option) -> tuple[bytes, ...]:
    named = ((1, protocol.BASE_ALLOCATION), (2, _BITMAP))
    return tuple(_option(code, 4, struct.pack(">L", n) + name.encode()) for n, name in named)


_STRUCTURED = _option(Option.STRUCTURED_REPLY, 1)
_NEGOTIATION: Parts = (
    *(_GREETING, _STRUCTURED, *_contexts(Option.SET_META_CONTEXT)),
    *(_option(Option.SET_META_CONTEXT, 1), _export()),
    _option(Option.GO, 3, struct.pack(">HLLL", 3, 1, 4096, 32 * MiB)),
    _option(Option.GO, 1),
)
_REFUSALS: tuple[Parts, ...] = tuple(
    (_GREETING, _STRUCTURED, _option(Option.SET_META_CONTEXT, kind, b"no \x1b[31m"))
    for kind in (0x80000001, 0x80000002, 0x80000006, 0x80000007, 0x80000005, 0x80000009)
)
_SIMPLE: Parts = (
    *(_GREETING, _option(Option.STRUCTURED_REPLY, 0x80000001), _export()),
    _option(Option.GO, 1),
)


def _chunk(cookie: int, kind: int, payload: bytes = b"", *, done: bool = True) -> bytes:
    header = protocol.CHUNK_HEADER.pack(int(done), kind, cookie, len(payload))
    return protocol.REPLY_MAGIC.pack(protocol.STRUCTURED_REPLY_MAGIC) + header + payload


def _status(context: int, *runs: tuple[int, int]) -> bytes:
    return struct.pack(">L", context) + b"".join(struct.pack(">LL", *run) for run in runs)


_READ: Parts = (
    _chunk(1, ChunkType.OFFSET_DATA, struct.pack(">Q", 512) + b"D" * 512, done=False),
    _chunk(1, ChunkType.OFFSET_HOLE, struct.pack(">QL", 1024, 512)),
)
_ERRORS: Parts = (
    _chunk(1, ChunkType.ERROR, struct.pack(">LH", 5, 3) + b"bad", done=False),
    _chunk(1, ChunkType.ERROR_OFFSET, struct.pack(">LH", 75, 0) + struct.pack(">Q", 512)),
)
_STATUSES: Parts = (
    _chunk(1, ChunkType.BLOCK_STATUS, _status(1, (65536, 0), (65536, 3)), done=False),
    _chunk(1, ChunkType.BLOCK_STATUS, _status(2, (65536, 1), (131072, 0)), done=False),
    _chunk(1, ChunkType.NONE),
)
_SIMPLE_READ: Parts = (struct.pack(">LLQ", protocol.SIMPLE_REPLY_MAGIC, 0, 1), b"D" * 1024)


_TWO_READS: Parts = (
    _chunk(2, ChunkType.OFFSET_DATA, struct.pack(">Q", 1024) + b"D" * 256, done=False),
    _chunk(1, ChunkType.OFFSET_HOLE, struct.pack(">QL", 512, 512)),
    _chunk(2, ChunkType.OFFSET_HOLE, struct.pack(">QL", 1280, 256)),
)
_TWO_SIMPLE: Parts = tuple(
    struct.pack(">LLQ", protocol.SIMPLE_REPLY_MAGIC, 0, n) + b"D" * 512 for n in (2, 1)
)


def _messages() -> Target:
    parsers: tuple[Callable[[bytes], object], ...] = (
        protocol.parse_greeting,
        lambda raw: protocol.parse_option_reply(raw, Option.GO),
        protocol.parse_info,
        protocol.parse_meta_context,
        protocol.parse_chunk,
        protocol.parse_simple_reply,
        lambda raw: str(protocol.parse_error(raw, ChunkType.ERROR)),
        lambda raw: str(protocol.parse_error(raw, ChunkType.ERROR_OFFSET)),
        protocol.parse_hole,
        lambda raw: list(protocol.parse_status(raw).runs()),
    )
    bodies = (
        *(_GREETING, _option(Option.GO, 1)[:20], struct.pack(">HQH", 0, 1 << 40, 0x1FF)),
        *(b"\0\0\0\1base:allocation", protocol.CHUNK_HEADER.pack(1, 1, 9, 24)),
        *(protocol.SIMPLE_REPLY.pack(5, 9), struct.pack(">LH", 5, 3) + b"bad"),
        *(struct.pack(">LH", 5, 0) + protocol.OFFSET.pack(512), protocol.HOLE.pack(0, 512)),
        _status(1, (512, 0), (4096, 3)),
    )

    def parse(data: bytes) -> object:
        if not data:
            return "nothing"
        parsers[data[0] % len(parsers)](data[1:])
        return data[0] % len(parsers)

    seeds = tuple((bytes([n]), body) for n, body in enumerate(bodies))
    return Target("nbd-messages", parse, seeds, (ProtocolError,), weight=150)


def _negotiation() -> Target:
    feed = _Feed()

    def parse(data: bytes) -> object:
        feed.data = data
        _, agreed = handshake.negotiate(_ENDPOINT, _CLOCK, _CANCEL)
        assert 0 <= agreed.size < 1 << 63
        assert {c.name for c in agreed.contexts} <= set(_ENDPOINT.contexts)
        return f"{agreed.structured} {len(agreed.contexts)}"

    allowed = (ProtocolError, SourceError, ConnectionLostError)
    seeds = (_NEGOTIATION, _SIMPLE, *_REFUSALS)
    return Target("nbd-negotiation", parse, seeds, allowed, weight=80, around=feed.around)


def _listing() -> Target:
    feed = _Feed()

    def parse(data: bytes) -> object:
        feed.data = data
        return len(list_contexts(_ENDPOINT, "qemu:", clock=_CLOCK, cancel=_CANCEL))

    code = Option.LIST_META_CONTEXT
    seeds: tuple[Parts, ...] = ((_GREETING, _STRUCTURED, *_contexts(code), _option(code, 1)),)
    allowed = (ProtocolError, SourceError, ConnectionLostError)
    return Target("nbd-context-list", parse, seeds, allowed, weight=40, around=feed.around)


def _replies() -> Target:
    def parse(data: bytes) -> object:
        structured = data[:1] < b"\x80"
        replies = ReplyReader(_transport(data[1:]), structured=structured)
        buffer = bytearray(b"\xee") * 1024
        kind = data[0] % 4 if data else 0
        if kind == 0:
            error = replies.data(1, 512, memoryview(buffer))
            assert error is not None or structured is False or 0xEE not in buffer or b"\xee" in data
            return f"read {error is None}"
        if kind == 3:
            reads = {n: Read(512 * n, memoryview(bytearray(b"\xee") * 512)) for n in (1, 2)}
            replies.reads(reads)
            for read in reads.values():
                assert read.error is not None or 0xEE not in bytes(read.view) or b"\xee" in data
            return f"reads {[read.error is None for read in reads.values()]}"
        if kind == 1:
            return f"plain {replies.plain(1) is None}"
        found = replies.status(1, frozenset({1, 2}))
        return f"status {isinstance(found, dict)}"

    seeds = (
        *((b"\0", *_READ), (b"\0", *_ERRORS), (b"\x81", *_SIMPLE_READ)),
        *((b"\3", *_TWO_READS), (b"\x83", *_TWO_SIMPLE), (b"\3", *reversed(_TWO_READS))),
        *((b"\1", _chunk(1, ChunkType.NONE)), (b"\2", *_STATUSES), (b"\2", *_ERRORS)),
    )
    return Target("nbd-replies", parse, seeds, (ProtocolError, ConnectionLostError), weight=150)


def _extents() -> Target:
    def parse(data: bytes) -> object:
        replies = ReplyReader(_transport(data), structured=True)

        def ask(offset: int, length: int) -> dict[str, protocol.Status]:
            found = replies.status(1, frozenset({1, 2}))
            if isinstance(found, protocol.WireError):
                raise SourceError(str(found))
            return {protocol.BASE_ALLOCATION: found[1], _BITMAP: found[2]}

        source = StatusSource(ask, _SIZE, 512, _BITMAP, allocation=True)
        extents = list(walk(source, 512, 131072))
        assert extents[0].start == 512
        assert extents[-1].end == 512 + 131072
        assert all(a.end == b.start and b.length > 0 for a, b in pairwise(extents))
        return len(extents) % 8

    seeds = (_STATUSES, _STATUSES * 3, _ERRORS)
    allowed = (ProtocolError, SourceError, ConnectionLostError)
    return Target("nbd-extents", parse, seeds, allowed, weight=70)


def _connection() -> Target:
    feed = _Feed()

    def parse(data: bytes) -> object:
        feed.data = data
        connection = Connection(_ENDPOINT, _CLOCK, _CANCEL)
        connection.read_into(512, memoryview(bytearray(1024)))
        statuses = connection.block_status(0, 131072)
        flags = connection.negotiated.flags
        if ExportFlag.READ_ONLY not in flags:
            connection.write(0, memoryview(bytes(512)))
        connection.close()
        return len(statuses)

    second = tuple(
        part.replace(struct.pack(">Q", 1), struct.pack(">Q", 2), 1) for part in _STATUSES
    )
    seeds = ((*_NEGOTIATION, *_READ, *second), (*_NEGOTIATION, *_ERRORS), (*_SIMPLE, *_SIMPLE_READ))
    allowed = (ProtocolError, SourceError, ConnectionLostError)
    return Target("nbd-connection", parse, seeds, allowed, weight=60, around=feed.around)


def _address() -> Target:
    def parse(data: bytes) -> object:
        uri = parse_uri(data.decode("utf-8", "surrogateescape"))
        assert str(uri.address)
        return f"{type(uri.address).__name__} {uri.tls}"

    texts = ("nbd://host:10809/a%20b", "nbds://[::1]/", "nbd+unix:///e?socket=/run/s", "nbd://h")
    seeds = tuple((text.encode(),) for text in texts)
    return Target("nbd-address", parse, seeds, (UsageError,), weight=30)


BUILDERS: Mapping[str, Callable[[], Target]] = {
    "nbd-messages": _messages,
    "nbd-negotiation": _negotiation,
    "nbd-context-list": _listing,
    "nbd-replies": _replies,
    "nbd-extents": _extents,
    "nbd-connection": _connection,
    "nbd-address": _address,
}
"""All of NBD."""
