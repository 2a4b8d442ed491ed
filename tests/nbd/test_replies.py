"""The reply reader fed with streams of chunks: any, and nearly right ones."""

import random
import socket
import struct
import threading
from contextlib import closing, suppress
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.nbd.protocol import WireError
from connectors.nbd.replies import Read, ReplyReader
from connectors.nbd.transport import Transport
from sealift.cancel import CancelToken
from sealift.clock import SystemClock
from sealift.errors import ConnectionLostError, ProtocolError

OFFSET, LENGTH, COOKIE = 1000, 24, 7
FILL = 0xEE


def transport(stream: bytes) -> Transport:
    """What a server sends before it closes the connection."""
    ours, theirs = socket.socketpair()
    theirs.sendall(stream)
    theirs.close()
    made = Transport(ours, "test", SystemClock(), CancelToken())
    made.arm(60)
    return made


def chunk(kind: int, payload: bytes, *, done: bool, cookie: int = COOKIE) -> bytes:
    return struct.pack(">LHHQL", 0x668E33EF, int(done), kind, cookie, len(payload)) + payload


data_chunks = st.builds(
    lambda offset, length: (1, struct.pack(">Q", OFFSET + offset) + b"D" * length),
    st.integers(0, LENGTH),
    st.integers(0, LENGTH),
)
hole_chunks = st.builds(
    lambda offset, length: (2, struct.pack(">QL", OFFSET + offset, length)),
    st.integers(0, LENGTH),
    st.integers(0, LENGTH),
)
error_chunks = st.just((0x8001, struct.pack(">LH", 5, 0)))
other_chunks = st.tuples(st.integers(0, 6), st.binary(max_size=12))
chunks = st.one_of(data_chunks, hole_chunks, data_chunks, error_chunks, other_chunks)


@settings(max_examples=800, deadline=None)
@given(parts=st.lists(chunks, max_size=6), last=st.booleans())
def test_a_read_is_whole_or_an_error(parts: list[tuple[int, bytes]], last: bool) -> None:
    """A read that returns has put every byte in place: nothing of the old buffer is left."""
    stream = b"".join(
        chunk(kind, payload, done=last and number == len(parts) - 1)
        for number, (kind, payload) in enumerate(parts)
    )
    buffer = bytearray([FILL]) * LENGTH
    with closing(transport(stream)) as peer:
        replies = ReplyReader(peer, structured=True)
        try:
            error = replies.data(COOKIE, OFFSET, memoryview(buffer))
        except (ProtocolError, ConnectionLostError):
            return
    if error is None:
        assert set(buffer) <= {0, ord("D")}
        assert sum(_content_bytes(*part) for part in parts) == LENGTH
    else:
        assert error == WireError(5)


def _content_bytes(kind: int, payload: bytes) -> int:
    if kind == 1:
        return len(payload) - 8
    return int(struct.unpack(">QL", payload)[1]) if kind == 2 else 0


@settings(max_examples=300, deadline=None)
@given(stream=st.binary(max_size=200), structured=st.booleans(), what=st.sampled_from("dps"))
def test_any_stream_ends(stream: bytes, structured: bool, what: str) -> None:
    magic = struct.pack(">L", 0x668E33EF if structured else 0x67446698)
    with closing(transport(magic + stream)) as peer:
        replies = ReplyReader(peer, structured=structured)
        buffer = bytearray([FILL]) * LENGTH
        told: object = "nothing"
        with suppress(ProtocolError, ConnectionLostError):
            if what == "d":
                told = replies.data(COOKIE, OFFSET, memoryview(buffer))
            elif what == "p":
                told = replies.plain(COOKIE)
            else:
                told = replies.status(COOKIE, frozenset({1}))
    # By chance alone a stream says nothing but an error, or one of 2^64 cookies.
    assert told is not None or COOKIE.to_bytes(8, "big") in stream


@settings(max_examples=200, deadline=None)
@given(cuts=st.lists(st.integers(1, LENGTH - 1), unique=True), order=st.randoms())
def test_pieces_in_any_order_make_a_whole(cuts: list[int], order: random.Random) -> None:
    content = bytes(range(1, LENGTH + 1))
    edges = [0, *sorted(cuts), LENGTH]
    pieces = [(a, content[a:b]) for a, b in pairwise(edges)]
    order.shuffle(pieces)
    stream = b"".join(
        chunk(1, struct.pack(">Q", OFFSET + at) + piece, done=number == len(pieces) - 1)
        for number, (at, piece) in enumerate(pieces)
    )
    buffer = bytearray(LENGTH)
    with closing(transport(stream)) as peer:
        replies = ReplyReader(peer, structured=True)
        assert replies.data(COOKIE, OFFSET, memoryview(buffer)) is None
    assert buffer == content


def outstanding(count: int) -> tuple[dict[int, Read], bytearray]:
    """Reads in flight over one buffer, of LENGTH bytes each."""
    buffer = bytearray([FILL]) * (LENGTH * count)
    views = [memoryview(buffer)[n * LENGTH : (n + 1) * LENGTH] for n in range(count)]
    return {n + 1: Read(OFFSET + n * LENGTH, view) for n, view in enumerate(views)}, buffer


@settings(max_examples=300, deadline=None)
@given(
    failed=st.sets(st.integers(1, 4)),
    cuts=st.lists(st.integers(1, LENGTH - 1), max_size=3, unique=True),
    order=st.randoms(),
)
def test_replies_of_several_reads_may_be_mixed(
    failed: set[int], cuts: list[int], order: random.Random
) -> None:
    content = bytes(range(1, 4 * LENGTH + 1))
    reads, buffer = outstanding(4)
    queues: list[list[bytes]] = []
    for cookie, read in reads.items():
        edges = [0, *sorted(cuts), LENGTH]
        at = read.offset - OFFSET
        parts = [
            (1, struct.pack(">Q", read.offset + a) + content[at + a : at + b])
            for a, b in pairwise(edges)
        ]
        if cookie in failed:
            parts.insert(order.randrange(len(parts) + 1), (0x8001, struct.pack(">LH", 5, 0)))
        queues.append(
            [chunk(*p, done=n == len(parts) - 1, cookie=cookie) for n, p in enumerate(parts)]
        )
    stream = b""
    while left := [queue for queue in queues if queue]:
        stream += order.choice(left).pop(0)
    stream += chunk(0, b"", done=True, cookie=99)
    with closing(transport(stream)) as peer:
        replies = ReplyReader(peer, structured=True)
        replies.reads(reads)
        assert {c for c, read in reads.items() if read.error == WireError(5)} == failed
        assert buffer == content
        assert replies.plain(99) is None, "the next reply begins where the last one ended"


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_simple_replies_of_several_reads_in_any_order(order: tuple[int, ...]) -> None:
    content = bytes(range(1, 3 * LENGTH + 1))
    reads, buffer = outstanding(3)
    stream = b""
    for cookie in order:
        stream += struct.pack(">LLQ", 0x67446698, 0, cookie)
        stream += content[(cookie - 1) * LENGTH : cookie * LENGTH]
    stream += struct.pack(">LLQ", 0x67446698, 0, 99)
    with closing(transport(stream)) as peer:
        replies = ReplyReader(peer, structured=False)
        replies.reads(reads)
        assert buffer == content
        assert replies.plain(99) is None


def test_a_head_that_is_short_of_what_was_hoped_for_is_waited_for_no_longer_than_a_slice() -> None:
    """The bytes of a read are there; what should come after them is another call's affair."""
    ours, theirs = socket.socketpair()
    with closing(Transport(ours, "test", SystemClock(), CancelToken())) as peer, closing(theirs):
        peer.arm(60)
        theirs.sendall(b"12345678" + b"D" * LENGTH + b"head")
        before, view = bytearray(8), bytearray(LENGTH)
        peer.receive_into(memoryview(view), before=before, ahead=20)
        assert (bytes(before), bytes(view)) == (b"12345678", b"D" * LENGTH)
        theirs.sendall(b"er")
        assert peer.receive(6) == b"header"


def test_a_second_reply_to_one_read_is_refused() -> None:
    reads, _ = outstanding(2)
    whole = chunk(1, struct.pack(">Q", OFFSET) + b"D" * LENGTH, done=True, cookie=1)
    with closing(transport(whole * 2)) as peer, pytest.raises(ProtocolError):
        ReplyReader(peer, structured=True).reads(reads)


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40), st.booleans()), max_size=12),
    cuts=st.lists(st.integers(1, 30), max_size=12),
)
def test_bytes_taken_ahead_are_neither_lost_nor_doubled(
    steps: list[tuple[int, int, bool]], cuts: list[int]
) -> None:
    total = sum(count for count, _, _ in steps)
    sent = bytes(n % 251 for n in range(total))
    ours, theirs = socket.socketpair()

    def send() -> None:
        at = 0
        for cut in [*cuts, total]:
            theirs.sendall(sent[at : at + cut])
            at += cut
        theirs.close()

    sender = threading.Thread(target=send)
    sender.start()
    got = b""
    with closing(Transport(ours, "test", SystemClock(), CancelToken())) as peer:
        peer.arm(60)
        for count, ahead, into in steps:
            if into:
                before, part = bytearray(count // 3), bytearray(count - count // 3)
                peer.receive_into(memoryview(part), before=before, ahead=ahead)
                got += before + part
            else:
                got += peer.receive(count, ahead=ahead)
        with pytest.raises(ConnectionLostError):
            peer.receive(1)
    sender.join()
    assert got == sent
