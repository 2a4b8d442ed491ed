"""One connection of the NBD server: the negotiation, then requests and their answers."""

import logging
import socket
import struct
import threading
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass

from connectors.nbd.protocol import (
    BASE_ALLOCATION,
    CHUNK_DONE,
    CHUNK_HEADER,
    GREETING,
    GREETING_MAGIC,
    OFFSET,
    OPTION_HEADER,
    OPTION_MAGIC,
    OPTION_REPLY_HEADER,
    OPTION_REPLY_MAGIC,
    REQUEST,
    REQUEST_MAGIC,
    SIMPLE_REPLY_MAGIC,
    STATE_ZERO,
    STRUCTURED_REPLY_MAGIC,
    ChunkType,
    Command,
    ExportFlag,
    HandshakeFlag,
    InfoType,
    NbdErrno,
    Option,
    OptionReplyType,
)
from sealift.disk import DiskReader
from sealift.errors import ProtocolError, SealiftError
from sealift.extents import Kind
from sealift.units import KiB, MiB

log = logging.getLogger(__name__)

_EXPORT_NAME, _LIST, _INFO = 1, 3, 6  # options that our own client has no use for
_MAX_OPTION_BYTES = 64 * KiB
_MAX_OPTIONS = 64  # of one negotiation; nbdinfo asks about ten
_MAX_DESCRIPTORS = 4096
_REQ_ONE = 8
_STATE_HOLE = 1
_CONTEXT_ID = 1
_FLAGS = (
    ExportFlag.HAS_FLAGS
    | ExportFlag.READ_ONLY
    | ExportFlag.SEND_FLUSH
    | ExportFlag.SEND_DF
    | ExportFlag.CAN_MULTI_CONN
)
_U16, _U32 = struct.Struct(">H"), struct.Struct(">L")
_INFO_EXPORT = struct.Struct(">HQH")
_INFO_BLOCK_SIZE = struct.Struct(">HLLL")
_SIMPLE = struct.Struct(">LLQ")
_CHUNK = struct.Struct(">L" + CHUNK_HEADER.format.removeprefix(">"))
_DESCRIPTOR = struct.Struct(">LL")
_ERROR = struct.Struct(">LH")


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients may ask of a server.

    Attributes:
        connections: at once; more are turned away.
        in_flight: requests of one connection that are under way.
        workers: threads that read, for all connections.
        max_request_bytes: longest read.
        handshake_seconds: how long a negotiation may stand still.
    """

    connections: int = 16
    in_flight: int = 8
    workers: int = 8
    max_request_bytes: int = 4 * MiB
    handshake_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class _Agreed:
    """What a negotiation ended with."""

    disk: DiskReader
    structured: bool
    status: bool


def serve_connection(
    peer: socket.socket, exports: Mapping[str, DiskReader], workers: Executor, limits: Limits
) -> None:
    """Negotiate, then answer until the client leaves.

    Raises:
        ProtocolError: the client does not speak NBD.
        OSError: the connection is gone.
    """
    peer.settimeout(limits.handshake_seconds)
    agreed = _Negotiation(peer, exports, limits).run()
    if agreed is None:
        return
    peer.settimeout(None)
    transmission = _Transmission(peer, agreed, limits)
    try:
        transmission.run(workers)
    finally:
        transmission.wait()


def _receive(peer: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = peer.recv(count - len(parts))
        if not part:
            raise ConnectionResetError("the client closed the connection")
        parts += part
    return bytes(parts)


class _Negotiation:
    """Options, one after the other."""

    def __init__(
        self, peer: socket.socket, exports: Mapping[str, DiskReader], limits: Limits
    ) -> None:
        self._peer = peer
        self._exports = exports
        self._limits = limits
        self._structured = False
        self._status_of: str | None = None

    def run(self) -> _Agreed | None:
        offered = HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES
        self._peer.sendall(GREETING.pack(GREETING_MAGIC, OPTION_MAGIC, offered))
        chosen = _U32.unpack(_receive(self._peer, 4))[0]
        if chosen & ~int(offered) or not chosen & HandshakeFlag.FIXED_NEWSTYLE:
            raise ProtocolError(f"client flags {chosen:#x}")
        zeroes = not chosen & HandshakeFlag.NO_ZEROES
        for _ in range(_MAX_OPTIONS):
            code, payload = self._option()
            if code == _EXPORT_NAME:
                return self._export_name(payload, zeroes=zeroes)
            if code == Option.ABORT:
                self._reply(code, OptionReplyType.ACK)
                return None
            name = self._answer(code, payload)
            if name is not None:
                return self._agreed(name)
        raise ProtocolError(f"more than {_MAX_OPTIONS} options")

    def _agreed(self, name: str) -> _Agreed:
        return _Agreed(self._exports[name], self._structured, self._status_of == name)

    def _option(self) -> tuple[int, bytes]:
        magic, code, length = OPTION_HEADER.unpack(_receive(self._peer, OPTION_HEADER.size))
        if magic != OPTION_MAGIC or length > _MAX_OPTION_BYTES:
            raise ProtocolError(f"option {code} of {length} bytes")
        return code, _receive(self._peer, length)

    def _reply(self, code: int, kind: OptionReplyType, payload: bytes = b"") -> None:
        head = OPTION_REPLY_HEADER.pack(OPTION_REPLY_MAGIC, code, kind, len(payload))
        self._peer.sendall(head + payload)

    def _answer(self, code: int, payload: bytes) -> str | None:
        """Answer one option; the export's name when transmission begins."""
        if code == _LIST and not payload:
            for name in self._exports:
                raw = name.encode()
                self._reply(code, OptionReplyType.SERVER, _U32.pack(len(raw)) + raw)
            self._reply(code, OptionReplyType.ACK)
        elif code == Option.STRUCTURED_REPLY and not payload:
            self._structured = True
            self._reply(code, OptionReplyType.ACK)
        elif code in (Option.LIST_META_CONTEXT, Option.SET_META_CONTEXT):
            self._meta_context(code, payload)
        elif code in (Option.GO, _INFO):
            return self._go(code, payload)
        else:
            self._reply(code, OptionReplyType.ERR_UNSUP)
        return None

    def _meta_context(self, code: int, payload: bytes) -> None:
        found = _strings(payload)
        if found is None or not self._structured:
            self._reply(code, OptionReplyType.ERR_INVALID)
            return
        name, queries = found
        if name not in self._exports:
            self._reply(code, OptionReplyType.ERR_UNKNOWN)
            return
        listing = code == Option.LIST_META_CONTEXT
        wanted = BASE_ALLOCATION in queries or (listing and (not queries or "base:" in queries))
        if not listing:
            self._status_of = name if wanted else None
        if wanted:
            context = _U32.pack(0 if listing else _CONTEXT_ID) + BASE_ALLOCATION.encode()
            self._reply(code, OptionReplyType.META_CONTEXT, context)
        self._reply(code, OptionReplyType.ACK)

    def _go(self, code: int, payload: bytes) -> str | None:
        name = _named(payload)
        if name is None:
            self._reply(code, OptionReplyType.ERR_INVALID)
            return None
        if name not in self._exports:
            self._reply(code, OptionReplyType.ERR_UNKNOWN, b"no such export")
            return None
        size = self._exports[name].size
        self._reply(code, OptionReplyType.INFO, _INFO_EXPORT.pack(InfoType.EXPORT, size, _FLAGS))
        blocks = (InfoType.BLOCK_SIZE, 1, 64 * KiB, self._limits.max_request_bytes)
        self._reply(code, OptionReplyType.INFO, _INFO_BLOCK_SIZE.pack(*blocks))
        self._reply(code, OptionReplyType.ACK)
        return name if code == Option.GO else None

    def _export_name(self, payload: bytes, *, zeroes: bool) -> _Agreed:
        """The old way in: it knows no refusal but the end of the connection."""
        name = payload.decode("utf-8", "replace")
        if name not in self._exports:
            raise ProtocolError(f"no export {name[:80]!r}")
        answer = struct.pack(">QH", self._exports[name].size, _FLAGS)
        self._peer.sendall(answer + bytes(124 if zeroes else 0))
        return self._agreed(name)


def _named(payload: bytes) -> str | None:
    """The name in the payload of GO or INFO."""
    if len(payload) < 6:
        return None
    length = _U32.unpack_from(payload)[0]
    rest = payload[4 + length :]
    if len(rest) < 2 or len(rest) != 2 + 2 * _U16.unpack_from(rest)[0]:
        return None
    return payload[4 : 4 + length].decode("utf-8", "replace")


def _strings(payload: bytes) -> tuple[str, list[str]] | None:
    """The export's name and the queries of a meta context option."""
    first = _string(payload, 0)
    if first is None or first[1] + 4 > len(payload):
        return None
    count, at = _U32.unpack_from(payload, first[1])[0], first[1] + 4
    queries: list[str] = []
    while at < len(payload) and len(queries) < count:
        found = _string(payload, at)
        if found is None:
            return None
        queries.append(found[0])
        at = found[1]
    return (first[0], queries) if at == len(payload) and len(queries) == count else None


def _string(payload: bytes, at: int) -> tuple[str, int] | None:
    """A text behind its length, and where it ends."""
    if at + 4 > len(payload):
        return None
    end = at + 4 + _U32.unpack_from(payload, at)[0]
    if end > len(payload):
        return None
    return payload[at + 4 : end].decode("utf-8", "replace"), end


class _Transmission:
    """Requests of one connection; answered by the workers, in any order."""

    def __init__(self, peer: socket.socket, agreed: _Agreed, limits: Limits) -> None:
        self._peer = peer
        self._agreed = agreed
        self._limits = limits
        self._sending = threading.Lock()
        self._free = threading.BoundedSemaphore(limits.in_flight)

    def run(self, workers: Executor) -> None:
        while True:
            raw = _receive(self._peer, REQUEST.size)
            magic, flags, command, cookie, offset, length = REQUEST.unpack(raw)
            if magic != REQUEST_MAGIC:
                raise ProtocolError(f"request with magic {magic:#x}")
            if command == Command.DISCONNECT:
                return
            if command == Command.WRITE:
                self._discard(length)
            request = (command, flags, cookie, offset, length)
            self._free.acquire()
            try:
                workers.submit(self._answer, *request)
            except RuntimeError:  # the server is closing
                self._free.release()
                return

    def wait(self) -> None:
        """Until nothing is under way."""
        for _ in range(self._limits.in_flight):
            self._free.acquire()

    def _discard(self, length: int) -> None:
        if length > self._limits.max_request_bytes:
            raise ProtocolError(f"a write of {length} bytes, to a disk that is read only")
        _receive(self._peer, length)

    def _answer(self, command: int, flags: int, cookie: int, offset: int, length: int) -> None:
        try:
            self._answered(command, flags, cookie, offset, length)
        except OSError as error:
            log.info("a client has gone: %s", error)
        except SealiftError as error:
            log.warning("a read of %d bytes at %d failed: %s", length, offset, error.message)
            self._refuse(cookie, NbdErrno.EIO, error.message)
        except Exception as error:
            log.exception("unexpected while answering a client")
            self._refuse(cookie, NbdErrno.EIO, type(error).__name__)
        finally:
            self._free.release()

    def _answered(self, command: int, flags: int, cookie: int, offset: int, length: int) -> None:
        if command == Command.FLUSH:
            self._acknowledge(cookie)
        elif command in (Command.WRITE, Command.WRITE_ZEROES):
            self._refuse(cookie, NbdErrno.EPERM, "this disk is read only")
        elif command not in (Command.READ, Command.BLOCK_STATUS):
            self._refuse(cookie, NbdErrno.EINVAL, "no such request")
        elif length == 0 or offset + length > self._agreed.disk.size:
            self._refuse(cookie, NbdErrno.EINVAL, "beyond the end of the disk")
        elif command == Command.BLOCK_STATUS:
            self._status(cookie, offset, length, one=bool(flags & _REQ_ONE))
        elif length > self._limits.max_request_bytes:
            self._refuse(cookie, NbdErrno.EOVERFLOW, "more than was agreed on")
        else:
            self._read(cookie, offset, length)

    def _read(self, cookie: int, offset: int, length: int) -> None:
        buffer = bytearray(length)
        self._agreed.disk.read_into(offset, memoryview(buffer))
        if self._agreed.structured:
            self._chunk(cookie, ChunkType.OFFSET_DATA, OFFSET.pack(offset), buffer)
        else:
            self._send(_SIMPLE.pack(SIMPLE_REPLY_MAGIC, 0, cookie), buffer)

    def _status(self, cookie: int, offset: int, length: int, *, one: bool) -> None:
        if not self._agreed.status:
            self._refuse(cookie, NbdErrno.EINVAL, "no context was agreed on")
            return
        most = 1 if one else _MAX_DESCRIPTORS
        found = []
        for extent in self._agreed.disk.extents(offset, length):
            state = STATE_ZERO | _STATE_HOLE if extent.kind is Kind.ZERO else 0
            found.append(_DESCRIPTOR.pack(extent.length, state))
            if len(found) == most:
                break
        self._chunk(cookie, ChunkType.BLOCK_STATUS, _U32.pack(_CONTEXT_ID), b"".join(found))

    def _acknowledge(self, cookie: int) -> None:
        if self._agreed.structured:
            self._chunk(cookie, ChunkType.NONE)
        else:
            self._send(_SIMPLE.pack(SIMPLE_REPLY_MAGIC, 0, cookie))

    def _refuse(self, cookie: int, errno: NbdErrno, why: str) -> None:
        try:
            if self._agreed.structured:
                text = why.encode()[:4096]
                self._chunk(cookie, ChunkType.ERROR, _ERROR.pack(errno, len(text)) + text)
            else:
                self._send(_SIMPLE.pack(SIMPLE_REPLY_MAGIC, errno, cookie))
        except OSError as error:
            log.info("a client has gone: %s", error)

    def _chunk(self, cookie: int, kind: ChunkType, *parts: bytes | bytearray) -> None:
        length = sum(map(len, parts))
        head = _CHUNK.pack(STRUCTURED_REPLY_MAGIC, CHUNK_DONE, kind, cookie, length)
        self._send(head, *parts)

    def _send(self, *parts: bytes | bytearray) -> None:
        with self._sending:
            for part in parts:
                self._peer.sendall(part)
