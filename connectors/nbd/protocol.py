"""The NBD wire format: numbers, layouts, and parsers from bytes to values. Pure.

Every parser takes exactly the bytes of its message, raises ``ProtocolError`` for anything
the protocol does not allow, and nothing else.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from sealift.errors import ProtocolError
from sealift.units import KiB, MiB

GREETING_MAGIC = 0x4E42444D41474943  # "NBDMAGIC"
OPTION_MAGIC = 0x49484156454F5054  # "IHAVEOPT"
OLDSTYLE_MAGIC = 0x420281861253
OPTION_REPLY_MAGIC = 0x3E889045565A9
REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698
STRUCTURED_REPLY_MAGIC = 0x668E33EF

MAX_OPTION_REPLY_BYTES = 32 * KiB
"""Longest option reply we read: two strings of 4096 bytes and room to spare."""
MAX_STRING_BYTES = 4096
MAX_ERROR_PAYLOAD_BYTES = MAX_STRING_BYTES + 14
MAX_STATUS_DESCRIPTORS = 1 << 20
"""nbdkit's own limit (MAX_EXTENTS); QEMU stops at 131,072 (NBD_MAX_BLOCK_STATUS_EXTENTS)."""
MAX_STATUS_PAYLOAD_BYTES = 4 + 8 * MAX_STATUS_DESCRIPTORS
DEFAULT_MAX_PAYLOAD_BYTES = 32 * MiB  # what a client may assume when nothing is said
MAX_MIN_BLOCK_BYTES = 64 * KiB
MAX_SIZE_BYTES = (1 << 63) - 1
MAX_REQUEST_LENGTH = (1 << 32) - 1

BASE_ALLOCATION = "base:allocation"
DIRTY_BITMAP_PREFIX = "qemu:dirty-bitmap:"
STATE_ZERO = 2
"""``base:allocation``: reads as zeroes. STATE_HOLE (1) alone says nothing about content."""
STATE_DIRTY = 1
"""``qemu:dirty-bitmap:*``: written since the bitmap began."""


class HandshakeFlag(IntFlag):
    """What a server offers in its greeting."""

    FIXED_NEWSTYLE = 1
    NO_ZEROES = 2


class Option(IntEnum):
    """Requests of the negotiation."""

    ABORT = 2
    STARTTLS = 5
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10


class OptionReplyType(IntEnum):
    """Answers of the negotiation; those with the top bit are refusals."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = 0x80000001
    ERR_POLICY = 0x80000002
    ERR_INVALID = 0x80000003
    ERR_PLATFORM = 0x80000004
    ERR_TLS_REQD = 0x80000005
    ERR_UNKNOWN = 0x80000006
    ERR_SHUTDOWN = 0x80000007
    ERR_BLOCK_SIZE_REQD = 0x80000008
    ERR_TOO_BIG = 0x80000009


class InfoType(IntEnum):
    """Pieces of information about an export."""

    EXPORT = 0
    BLOCK_SIZE = 3


class ExportFlag(IntFlag):
    """Transmission flags of an export."""

    HAS_FLAGS = 1
    READ_ONLY = 2
    SEND_FLUSH = 4
    SEND_FUA = 8
    ROTATIONAL = 16
    SEND_TRIM = 32
    SEND_WRITE_ZEROES = 64
    SEND_DF = 128
    CAN_MULTI_CONN = 256
    SEND_RESIZE = 512
    SEND_CACHE = 1024
    SEND_FAST_ZERO = 2048


class Command(IntEnum):
    """Requests of the transmission phase."""

    READ = 0
    WRITE = 1
    DISCONNECT = 2
    FLUSH = 3
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


DONT_FRAGMENT = 4
"""NBD_CMD_FLAG_DF: answer a read in one piece, holes read as bytes; only with SEND_DF."""


class ChunkType(IntEnum):
    """Structured reply chunks that we know."""

    NONE = 0
    OFFSET_DATA = 1
    OFFSET_HOLE = 2
    BLOCK_STATUS = 5
    ERROR = 0x8001
    ERROR_OFFSET = 0x8002


class NbdErrno(IntEnum):
    """Error numbers of the protocol; the same as Linux's."""

    EPERM = 1
    EIO = 5
    ENOMEM = 12
    EINVAL = 22
    ENOSPC = 28
    EOVERFLOW = 75
    ENOTSUP = 95
    ESHUTDOWN = 108


CHUNK_ERROR_BIT = 0x8000
CHUNK_DONE = 1

GREETING = struct.Struct(">QQH")
OPTION_HEADER = struct.Struct(">QLL")
OPTION_REPLY_HEADER = struct.Struct(">QLLL")
REQUEST = struct.Struct(">LHHQQL")
REPLY_MAGIC = struct.Struct(">L")
SIMPLE_REPLY = struct.Struct(">LQ")  # after the magic
CHUNK_HEADER = struct.Struct(">HHQL")  # after the magic
OFFSET = struct.Struct(">Q")
HOLE = struct.Struct(">QL")
_INFO_EXPORT = struct.Struct(">HQH")
_INFO_BLOCK_SIZE = struct.Struct(">HLLL")
_U16 = struct.Struct(">H")
_U32 = struct.Struct(">L")
_DESCRIPTOR = struct.Struct(">LL")
_ERROR = struct.Struct(">LH")


@dataclass(frozen=True, slots=True)
class OptionReply:
    """Header of one option reply; ``length`` bytes of payload follow."""

    type: int
    length: int

    @property
    def refused(self) -> bool:
        """Whether the server says no."""
        return self.type >= OptionReplyType.ERR_UNSUP - 1


@dataclass(frozen=True, slots=True)
class ExportSize:
    """NBD_INFO_EXPORT."""

    size: int
    flags: ExportFlag


@dataclass(frozen=True, slots=True)
class BlockSizes:
    """NBD_INFO_BLOCK_SIZE, or its defaults; all in bytes.

    Attributes:
        minimum: alignment of every request; a power of two.
        preferred: no gain below it.
        maximum: longest payload of one request.
    """

    minimum: int = 1
    preferred: int = 4096
    maximum: int = DEFAULT_MAX_PAYLOAD_BYTES


@dataclass(frozen=True, slots=True)
class MetaContext:
    """A context and the number that stands for it in replies."""

    id: int
    name: str


@dataclass(frozen=True, slots=True)
class ChunkHeader:
    """Header of one structured reply chunk; ``length`` bytes of payload follow."""

    type: int
    cookie: int
    length: int
    done: bool

    @property
    def is_error(self) -> bool:
        """Whether it reports an error, also one of a type we do not know."""
        return bool(self.type & CHUNK_ERROR_BIT)


@dataclass(frozen=True, slots=True)
class WireError:
    """An error that the server reports for one request; ``message`` is made printable."""

    errno: int
    message: str = ""
    offset: int | None = None

    def __str__(self) -> str:
        try:
            name = NbdErrno(self.errno).name
        except ValueError:
            name = f"error {self.errno}"
        return f"{name} ({self.message})" if self.message else name


@dataclass(frozen=True, slots=True)
class Status:
    """Block status of one context: descriptors as they came, decoded lazily.

    Attributes:
        context_id: which context.
        descriptors: pairs of 32-bit length and flags; validated.
        covered: sum of the lengths, at least 1.
    """

    context_id: int
    descriptors: bytes
    covered: int

    def runs(self) -> Iterator[tuple[int, int]]:
        """(length in bytes, flags), in order; no length is zero."""
        yield from _DESCRIPTOR.iter_unpack(self.descriptors)


def printable(raw: bytes) -> str:
    """Text from a server, safe to show: bounded, no control characters."""
    text = raw[:MAX_STRING_BYTES].decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "?" for c in text)


def parse_greeting(raw: bytes) -> HandshakeFlag:
    """18 bytes: magic, magic, flags. Refuses oldstyle and unfixed newstyle servers."""
    magic, second, flags = _unpack(GREETING, raw, "greeting")
    if magic != GREETING_MAGIC:
        raise ProtocolError("this is not an NBD server", next_step="check address and port")
    if second == OLDSTYLE_MAGIC:
        raise ProtocolError(
            "the NBD server speaks the oldstyle protocol",
            next_step="serve the disk with qemu-nbd or nbdkit",
        )
    if second != OPTION_MAGIC or not flags & HandshakeFlag.FIXED_NEWSTYLE:
        raise ProtocolError(
            "the NBD server does not speak fixed newstyle",
            next_step="serve the disk with qemu-nbd or nbdkit",
        )
    return HandshakeFlag(flags & 3)


def option(code: Option, payload: bytes = b"") -> bytes:
    """An option request."""
    return OPTION_HEADER.pack(OPTION_MAGIC, code, len(payload)) + payload


def go_payload(export: str) -> bytes:
    """Payload of NBD_OPT_GO; asking for block sizes promises to respect them."""
    name = export.encode()
    return _U32.pack(len(name)) + name + _U16.pack(1) + _U16.pack(InfoType.BLOCK_SIZE)


def meta_context_payload(export: str, queries: tuple[str, ...]) -> bytes:
    """Payload of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT."""
    strings = [q.encode() for q in (export, *queries)]
    encoded = [_U32.pack(len(s)) + s for s in strings]
    return encoded[0] + _U32.pack(len(queries)) + b"".join(encoded[1:])


def parse_option_reply(raw: bytes, code: Option) -> OptionReply:
    """20 bytes of header; the payload's length is bounded by ``MAX_OPTION_REPLY_BYTES``."""
    magic, option_code, kind, length = _unpack(OPTION_REPLY_HEADER, raw, "option reply")
    if magic != OPTION_REPLY_MAGIC:
        raise ProtocolError("option reply without its magic")
    if option_code != code:
        raise ProtocolError(f"reply to option {option_code} instead of {code.name}")
    if length > MAX_OPTION_REPLY_BYTES:
        raise ProtocolError(f"option reply of {length} bytes; we read {MAX_OPTION_REPLY_BYTES}")
    return OptionReply(kind, length)


def parse_info(raw: bytes) -> ExportSize | BlockSizes | None:
    """Payload of NBD_REP_INFO; None for kinds we did not ask for."""
    if len(raw) < _U16.size:
        raise ProtocolError("information without a type")
    kind = _U16.unpack_from(raw)[0]
    if kind == InfoType.EXPORT:
        _, size, flags = _unpack(_INFO_EXPORT, raw, "export information")
        if size > MAX_SIZE_BYTES or not flags & ExportFlag.HAS_FLAGS:
            raise ProtocolError(f"export of {size} bytes with flags {flags:#x}")
        return ExportSize(size, ExportFlag(flags & 0xFFF))
    if kind == InfoType.BLOCK_SIZE:
        return _block_sizes(*_unpack(_INFO_BLOCK_SIZE, raw, "block sizes")[1:])
    return None


def _block_sizes(minimum: int, preferred: int, maximum: int) -> BlockSizes:
    power_of_two = minimum > 0 and minimum & (minimum - 1) == 0
    if not power_of_two or minimum > MAX_MIN_BLOCK_BYTES or maximum < minimum:
        raise ProtocolError(f"block sizes {minimum}, {preferred}, {maximum}")
    return BlockSizes(minimum, preferred, min(maximum, DEFAULT_MAX_PAYLOAD_BYTES))


def parse_meta_context(raw: bytes) -> MetaContext:
    """Payload of NBD_REP_META_CONTEXT."""
    if not _U32.size < len(raw) <= _U32.size + MAX_STRING_BYTES:
        raise ProtocolError(f"meta context of {len(raw)} bytes")
    try:
        name = raw[_U32.size :].decode("utf-8")
    except UnicodeDecodeError as error:
        raise ProtocolError("a meta context's name is not UTF-8") from error
    return MetaContext(_U32.unpack_from(raw)[0], name)


def request(
    command: Command, cookie: int, offset: int = 0, length: int = 0, flags: int = 0
) -> bytes:
    """A 28-byte request header."""
    return REQUEST.pack(REQUEST_MAGIC, flags, command, cookie, offset, length)


def parse_chunk(raw: bytes) -> ChunkHeader:
    """16 bytes after the magic; the length is checked by who knows the request."""
    flags, kind, cookie, length = _unpack(CHUNK_HEADER, raw, "structured reply")
    if flags & ~CHUNK_DONE:
        raise ProtocolError(f"structured reply with flags {flags:#x}")
    if kind == ChunkType.NONE and (length or not flags):
        raise ProtocolError("an empty chunk that is not empty or not the last")
    return ChunkHeader(kind, cookie, length, bool(flags & CHUNK_DONE))


def parse_simple_reply(raw: bytes) -> tuple[int, int]:
    """12 bytes after the magic: (error number, cookie)."""
    errno, cookie = _unpack(SIMPLE_REPLY, raw, "simple reply")
    return errno, cookie


def parse_error(raw: bytes, kind: int) -> WireError:
    """Payload of an error chunk."""
    if len(raw) < _ERROR.size or len(raw) > MAX_ERROR_PAYLOAD_BYTES:
        raise ProtocolError(f"error chunk of {len(raw)} bytes")
    errno, length = _ERROR.unpack_from(raw)
    rest = raw[_ERROR.size + length :]
    if length > len(raw) - _ERROR.size or errno == 0:
        raise ProtocolError("error chunk with a wrong length or without an error")
    message = printable(raw[_ERROR.size : _ERROR.size + length])
    if kind == ChunkType.ERROR_OFFSET:
        return WireError(errno, message, _unpack(OFFSET, rest, "offset of an error")[0])
    if kind == ChunkType.ERROR and rest:
        raise ProtocolError("error chunk with bytes after its message")
    return WireError(errno, message)


def parse_hole(raw: bytes) -> tuple[int, int]:
    """Payload of a hole: (offset, length); the range is checked by who knows the request."""
    offset, length = _unpack(HOLE, raw, "hole")
    if length == 0:
        raise ProtocolError("a hole of no bytes")
    return offset, length


def parse_status(raw: bytes) -> Status:
    """Payload of a block status chunk: at least one descriptor, none of them empty."""
    if not _U32.size < len(raw) <= MAX_STATUS_PAYLOAD_BYTES or len(raw) % 8 != _U32.size:
        raise ProtocolError(f"block status of {len(raw)} bytes")
    descriptors = raw[_U32.size :]
    covered = 0
    for length, _ in _DESCRIPTOR.iter_unpack(descriptors):
        if length == 0:
            raise ProtocolError("block status with an extent of no bytes")
        covered += length
    return Status(_U32.unpack_from(raw)[0], descriptors, covered)


def _unpack(layout: struct.Struct, raw: bytes, what: str) -> tuple[int, ...]:
    if len(raw) != layout.size:
        raise ProtocolError(f"{what} of {len(raw)} bytes instead of {layout.size}")
    return layout.unpack(raw)
