"""Parsers: bytes in, values or ``ProtocolError`` out, whatever the bytes are."""

import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.nbd import protocol
from connectors.nbd.protocol import ChunkType, Option
from connectors.nbd.replies import Coverage
from sealift.errors import ProtocolError

PARSERS: dict[str, Callable[[bytes], object]] = {
    "greeting": protocol.parse_greeting,
    "option-reply": lambda raw: protocol.parse_option_reply(raw, Option.GO),
    "info": protocol.parse_info,
    "meta-context": protocol.parse_meta_context,
    "chunk": protocol.parse_chunk,
    "simple-reply": protocol.parse_simple_reply,
    "error": lambda raw: protocol.parse_error(raw, ChunkType.ERROR),
    "error-offset": lambda raw: protocol.parse_error(raw, ChunkType.ERROR_OFFSET),
    "error-unknown": lambda raw: protocol.parse_error(raw, 0x8777),
    "hole": protocol.parse_hole,
    "status": lambda raw: list(protocol.parse_status(raw).runs()),
}

MESSAGES = {
    "greeting": struct.pack(">QQH", protocol.GREETING_MAGIC, protocol.OPTION_MAGIC, 3),
    "option-reply": struct.pack(">QLLL", protocol.OPTION_REPLY_MAGIC, 7, 1, 0),
    "info": struct.pack(">HQH", 0, 1 << 40, 0x1FF),
    "meta-context": b"\0\0\0\1base:allocation",
    "chunk": struct.pack(">HHQL", 1, 1, 9, 24),
    "simple-reply": struct.pack(">LQ", 5, 9),
    "error": struct.pack(">LH", 5, 3) + b"bad",
    "error-offset": struct.pack(">LH", 5, 3) + b"bad" + struct.pack(">Q", 512),
    "error-unknown": struct.pack(">LH", 5, 0) + b"what ever",
    "hole": struct.pack(">QL", 0, 512),
    "status": struct.pack(">LLLLL", 1, 512, 0, 4096, 3),
}


@pytest.mark.parametrize("name", PARSERS)
def test_a_good_message_is_parsed(name: str) -> None:
    assert PARSERS[name](MESSAGES[name]) is not None


@pytest.mark.fault(51)
@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_bytes_are_a_value_or_a_protocol_error(name: str, data: st.DataObject) -> None:
    good = MESSAGES[name]
    at = st.integers(0, len(good) - 1)
    mutated = st.builds(lambda i, part: good[:i] + part + good[i + 1 :], at, st.binary(max_size=4))
    cut = st.builds(lambda i: good[:i], at)
    raw = data.draw(st.one_of(st.binary(max_size=64), mutated, cut))
    try:
        value = PARSERS[name](raw)
    except ProtocolError as error:
        assert error.message.isprintable()  # noqa: PT017
    else:
        assert repr(value)
        assert len(raw) <= 64


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("greeting", struct.pack(">QQH", protocol.GREETING_MAGIC, protocol.OLDSTYLE_MAGIC, 0)),
        ("greeting", struct.pack(">QQH", protocol.GREETING_MAGIC, protocol.OPTION_MAGIC, 2)),
        ("greeting", b"HTTP/1.1 400 Bad R"),
        ("option-reply", struct.pack(">QLLL", protocol.OPTION_REPLY_MAGIC, 8, 1, 0)),
        ("option-reply", struct.pack(">QLLL", protocol.OPTION_REPLY_MAGIC, 7, 1, 1 << 31)),
        ("info", struct.pack(">HQH", 0, 1 << 63, 1)),
        ("info", struct.pack(">HQH", 0, 1024, 0)),
        ("info", struct.pack(">HLLL", 3, 0, 512, 512)),
        ("info", struct.pack(">HLLL", 3, 3, 512, 4096)),
        ("info", struct.pack(">HLLL", 3, 1 << 17, 1 << 17, 1 << 20)),
        ("info", struct.pack(">HLLL", 3, 4096, 4096, 512)),
        ("meta-context", b"\0\0\0\1"),
        ("meta-context", b"\0\0\0\1\xff\xfe"),
        ("meta-context", b"\0\0\0\1" + b"x" * 5000),
        ("chunk", struct.pack(">HHQL", 2, 1, 9, 24)),
        ("chunk", struct.pack(">HHQL", 1, 0, 9, 1)),
        ("chunk", struct.pack(">HHQL", 0, 0, 9, 0)),
        ("error", struct.pack(">LH", 5, 9) + b"bad"),
        ("error", struct.pack(">LH", 0, 0)),
        ("error", struct.pack(">LH", 5, 1) + b"bad"),
        ("hole", struct.pack(">QL", 0, 0)),
        ("status", struct.pack(">L", 1)),
        ("status", struct.pack(">LLL", 1, 0, 0)),
        ("status", struct.pack(">LLLL", 1, 1, 0, 0)),
    ],
)
def test_what_the_protocol_forbids_is_refused(name: str, raw: bytes) -> None:
    with pytest.raises(ProtocolError):
        PARSERS[name](raw)


@pytest.mark.fault(51, 52)
def test_words_of_a_server_are_made_harmless() -> None:
    error = protocol.parse_error(struct.pack(">LH", 5, 9) + b"a\x1b[31m\nb\xff", ChunkType.ERROR)
    assert str(error) == "EIO (a?[31m?b\ufffd)"
    assert len(protocol.printable(b"x" * 100_000)) == protocol.MAX_STRING_BYTES


def test_an_unknown_number_is_still_an_error() -> None:
    assert str(protocol.WireError(4242)) == "error 4242"


parts = st.lists(st.tuples(st.integers(-2, 40), st.integers(-1, 20)), max_size=30)


@settings(max_examples=500, deadline=None)
@given(parts=parts, length=st.integers(1, 32))
def test_coverage_counts_every_byte_once(parts: list[tuple[int, int]], length: int) -> None:
    """Against a set of bytes: what is refused there is refused here, and nothing else."""
    coverage, seen = Coverage(4, length), set[int]()
    for offset, size in parts:
        wanted = set(range(offset, offset + size))
        legal = bool(wanted) and wanted <= set(range(4, 4 + length)) and not wanted & seen
        try:
            assert coverage.add(offset, size) == offset - 4
        except ProtocolError:
            assert not legal
        else:
            assert legal
            seen |= wanted
        assert coverage.complete == (len(seen) == length)
