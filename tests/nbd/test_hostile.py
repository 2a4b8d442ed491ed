"""Servers that lie, stall, flood and break off: limits, deadlines, a strict state machine."""

import struct
import threading
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from connectors.nbd import NbdReader, NbdWriter, UnixAddress
from connectors.nbd.handshake import Endpoint, list_contexts
from sandbox.nbd.hostile import FLAGS_WRITABLE, GREETING, HostileServer, Peer, Script
from sealift.cancel import CancelToken
from sealift.clock import SystemClock
from sealift.disk import Unwritten
from sealift.errors import (
    ConnectionLostError,
    PointLostError,
    ProtocolError,
    SealiftError,
    SourceError,
    SourceReadError,
    StoppedError,
    TrackingLostError,
)
from sealift.units import GiB, MiB

QUICK_SECONDS = 0.6
ABORTED_SECONDS = 60.0  # far below any deadline of the tests that use it


def reader(path: Path, *, seconds: float = 20.0, dirty: str | None = None) -> NbdReader:
    return NbdReader(UnixAddress(path), identity="i", deadline_seconds=seconds, dirty_bitmap=dirty)


def fails(path: Path, script: Script, *, seconds: float = 20.0) -> SealiftError:
    """The error that opening, reading 64 KiB and asking for extents ends in."""
    with HostileServer(path, script), pytest.raises(SealiftError) as caught:
        use(path, seconds)
    return caught.value


def use(path: Path, seconds: float) -> None:
    with closing(reader(path, seconds=seconds)) as opened:
        opened.read_into(0, memoryview(bytearray(65536)))
        list(opened.extents(0, opened.size))


def greeting_only(*parts: bytes) -> Script:
    def script(peer: Peer) -> None:
        peer.send(*parts)
        peer.stall()

    return script


def option_answer(answer: Callable[[Peer, int], object], at: int = 8) -> Script:
    """Honest until option ``at``, then ``answer``."""

    def script(peer: Peer) -> None:
        peer.greet()
        while True:
            option, _ = peer.receive_option()
            if option == at:
                answer(peer, option)
                peer.stall()
            peer.option_reply(option, 1)

    return script


def flood(peer: Peer, option: int) -> None:
    while True:
        peer.option_reply(option, 3, struct.pack(">H", 99))


HANDSHAKES: dict[str, Script] = {
    "http": greeting_only(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "oldstyle": greeting_only(
        struct.pack(">QQ", 0x4E42444D41474943, 0x420281861253) + bytes(8 + 4 + 124)
    ),
    "not-fixed": greeting_only(GREETING[:-2] + b"\0\0"),
    "wrong-magic-in-reply": option_answer(lambda p, _: p.send(b"\xff" * 20)),
    "reply-to-another-option": option_answer(lambda p, _: p.option_reply(7, 1)),
    "huge-option-reply": option_answer(lambda p, o: p.option_reply(o, 1, length=(1 << 32) - 1)),
    "info-where-ack-is-due": option_answer(lambda p, o: p.option_reply(o, 3, b"\0\0")),
    "endless-info": option_answer(flood, at=7),
    "no-size": option_answer(lambda p, o: p.option_reply(o, 1), at=7),
    "context-that-nobody-asked-for": option_answer(
        lambda p, o: p.option_reply(o, 4, b"\0\0\0\1evil:context").option_reply(o, 1),
        at=10,
    ),
    "context-twice": option_answer(
        lambda p, o: [
            p.option_reply(o, kind, payload)
            for kind, payload in [(4, b"\0\0\0\1base:allocation")] * 2 + [(1, b"")]
        ],
        at=10,
    ),
    "endless-contexts": option_answer(
        lambda p, o: ([p.option_reply(o, 4, b"\0\0\0\1base:allocation") for _ in range(9999)]),
        at=10,
    ),
}


@pytest.mark.fault(51)
@pytest.mark.parametrize("name", HANDSHAKES)
def test_a_broken_handshake_is_a_protocol_error(name: str, tmp_path: Path) -> None:
    assert isinstance(fails(tmp_path / "s", HANDSHAKES[name]), ProtocolError)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (0x80000002, SourceError),
        (0x80000005, SourceError),
        (0x80000006, SourceError),
        (0x80000007, ConnectionLostError),
        (0x80000ABC, SourceError),
    ],
)
def test_refusals_have_their_class(code: int, expected: type[SealiftError], tmp_path: Path) -> None:
    error = fails(tmp_path / "s", option_answer(lambda p, o: p.option_reply(o, code, b"no"), at=7))
    assert type(error) is expected


def answering(answer: Callable[[Peer, int, int, int], object], size: int = MiB) -> Script:
    """Honest negotiation; ``answer(peer, cookie, offset, length)`` to every request."""

    def script(peer: Peer) -> None:
        peer.haggle(size)
        while True:
            request = peer.receive_request()
            answer(peer, request.cookie, request.offset, request.length)

    return script


def data(offset: int, content: bytes) -> bytes:
    return struct.pack(">Q", offset) + content


def endless_errors(p: Peer, c: int, _o: int, _n: int) -> None:
    while True:
        p.chunk(c, 0x8001, struct.pack(">LH", 5, 0), done=False)


def crumbs(p: Peer, c: int, o: int, n: int) -> None:
    """Every other byte, in chunks of one: the worst for who keeps books of what is there."""
    for at in range(0, n, 2):
        p.chunk(c, 1, data(o + at, b"x"), done=False)
    p.chunk(c, 0)


REPLIES: dict[str, Callable[[Peer, int, int, int], object]] = {
    "garbage": lambda p, _c, _o, _n: p.send(b"\x13" * 64),
    "wrong-cookie": lambda p, c, o, n: p.chunk(c + 1, 1, data(o, bytes(n))),
    "simple-reply": lambda p, c, _o, n: p.send(struct.pack(">LLQ", 0x67446698, 0, c), bytes(n)),
    "nothing": lambda p, c, _o, _n: p.chunk(c, 0),
    "short": lambda p, c, o, n: p.chunk(c, 1, data(o, bytes(n - 1))),
    "long": lambda p, c, o, n: p.chunk(c, 1, data(o, bytes(n + 1))),
    "huge": lambda p, c, o, _n: p.chunk(c, 1, data(o, b""), length=(1 << 32) - 1),
    "empty-data": lambda p, c, o, _n: p.chunk(c, 1, data(o, b"")),
    "before": lambda p, c, o, n: p.chunk(c, 1, data((o - 1) % (1 << 64), bytes(n))),
    "behind": lambda p, c, o, n: p.chunk(c, 1, data(o + n, bytes(n))),
    "twice": lambda p, c, o, n: ([p.chunk(c, 1, data(o, bytes(n)), done=False) for _ in "ab"]),
    "hole-outside": lambda p, c, o, n: p.chunk(c, 2, struct.pack(">QL", o, n + 1)),
    "hole-over-data": lambda p, c, o, n: p.chunk(c, 1, data(o, bytes(n)), done=False).chunk(
        c, 2, struct.pack(">QL", o, n)
    ),
    "hole-of-4-gib": lambda p, c, o, _n: p.chunk(c, 2, struct.pack(">QL", o, (1 << 32) - 1)),
    "status-for-a-read": lambda p, c, _o, _n: p.status(c, 1, (512, 0), done=True),
    "unknown-chunk": lambda p, c, _o, _n: p.chunk(c, 77, b"?"),
    "huge-error": lambda p, c, _o, _n: p.chunk(c, 0x8001, b"", length=1 << 30),
    "malformed-error": lambda p, c, _o, _n: p.chunk(c, 0x8001, struct.pack(">LH", 5, 99)),
    "endless-errors": endless_errors,
    "crumbs": crumbs,
}


@pytest.mark.fault(51)
@pytest.mark.parametrize("name", REPLIES)
def test_a_wrong_reply_to_a_read_is_a_protocol_error(name: str, tmp_path: Path) -> None:
    assert isinstance(fails(tmp_path / "s", answering(REPLIES[name])), ProtocolError)


STATUSES: dict[str, Callable[[Peer, int, int, int], object]] = {
    "empty-extent": lambda p, c, _o, _n: p.status(c, 1, (0, 0), done=True),
    "no-extent": lambda p, c, _o, _n: p.status(c, 1, done=True),
    "unasked-context": lambda p, c, _o, n: p.status(c, 9, (n, 0), done=True),
    "same-context-twice": lambda p, c, _o, n: (
        [p.status(c, 1, (n, 0), done=d) for d in (False, True)]
    ),
    "missing-context": lambda p, c, _o, _n: p.chunk(c, 0),
    "data": lambda p, c, o, _n: p.chunk(c, 1, data(o, b"x")),
    "huge": lambda p, c, _o, _n: p.chunk(c, 5, length=1 << 31),
    "odd": lambda p, c, _o, _n: p.chunk(c, 5, b"\0\0\0\1\0\0\2\0\0\0"),
}


@pytest.mark.fault(51)
@pytest.mark.parametrize("name", STATUSES)
def test_a_wrong_block_status_is_a_protocol_error(name: str, tmp_path: Path) -> None:
    with HostileServer(tmp_path / "s", answering(STATUSES[name])):
        opened = reader(tmp_path / "s")
        with pytest.raises(ProtocolError):
            list(opened.extents(0, opened.size))
        opened.close()


@pytest.mark.fault(51)
def test_a_million_descriptors_do_not_take_memory(tmp_path: Path) -> None:
    """8 MiB of 1-byte extents: lazily decoded, and joined while they come."""

    def swarm(peer: Peer, cookie: int, _offset: int, _length: int) -> None:
        pairs = struct.pack(">LLLL", 1, 0, 1, 3) * (1 << 19)
        peer.chunk(cookie, 5, struct.pack(">L", 1) + pairs)

    with HostileServer(tmp_path / "s", answering(swarm)):
        opened = reader(tmp_path / "s")
        tracemalloc.start()
        assert sum(1 for _ in opened.extents(0, 200_000)) == 200_000
        assert tracemalloc.get_traced_memory()[1] < 64 * MiB
        tracemalloc.stop()
        opened.close()


@pytest.mark.fault(51)
def test_a_huge_promise_allocates_nothing(tmp_path: Path) -> None:
    tracemalloc.start()
    error = fails(tmp_path / "s", answering(REPLIES["huge"]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(error, ProtocolError)
    assert peak < 8 * MiB


STALLS: dict[str, Script] = {
    "no-greeting": lambda p: p.stall(),
    "greeting-trickles": lambda p: p.trickle(GREETING, 0.1),
    "no-answer-to-an-option": option_answer(lambda p, _: p.stall()),
    "option-trickles": option_answer(
        lambda p, o: p.trickle(struct.pack(">QLLL", 0x3E889045565A9, o, 1, 0), 0.1)
    ),
    "no-answer-to-a-read": answering(lambda p, *_: p.stall()),
    "stalls-after-the-header": answering(
        lambda p, c, o, n: p.send(struct.pack(">LHHQL", 0x668E33EF, 1, 1, c, n + 8)).stall()
    ),
}


@pytest.mark.fault(15, 51)
@pytest.mark.parametrize("name", STALLS)
def test_a_stalling_server_meets_the_deadline(name: str, tmp_path: Path) -> None:
    clock = SystemClock()
    started = clock.monotonic()
    error = fails(tmp_path / "s", STALLS[name], seconds=QUICK_SECONDS)
    assert isinstance(error, ConnectionLostError)
    assert "within" in error.message
    assert clock.monotonic() - started < 60  # and not the hour that a stall may last


@pytest.mark.fault(15, 51)
def test_a_trickling_read_meets_the_deadline_of_the_whole_request(tmp_path: Path) -> None:
    """A byte every 50 ms is progress, but it would take an hour."""

    def slow_loris(peer: Peer, cookie: int, offset: int, length: int) -> None:
        peer.send(struct.pack(">LHHQLQ", 0x668E33EF, 1, 1, cookie, length + 8, offset))
        peer.trickle(bytes(length), 0.05)

    error = fails(tmp_path / "s", answering(slow_loris), seconds=QUICK_SECONDS)
    assert isinstance(error, ConnectionLostError)


def test_a_server_that_does_not_take_our_data_meets_the_deadline(tmp_path: Path) -> None:
    def deaf(peer: Peer) -> None:
        peer.haggle(64 * MiB, FLAGS_WRITABLE)
        peer.stall()

    with HostileServer(tmp_path / "s", deaf):
        writer = NbdWriter(
            UnixAddress(tmp_path / "s"),
            identity="w",
            unwritten=Unwritten.ZERO,
            deadline_seconds=QUICK_SECONDS,
            max_op_bytes=64 * 1024,
        )

        def fill() -> None:
            for at in range(0, 64 * MiB, 65536):
                writer.write(at, memoryview(bytes(65536)), [])

        with pytest.raises(ConnectionLostError, match="within"):
            fill()
        writer.close()


@pytest.mark.parametrize("how", ["token", "abort", "close"])
def test_a_waiting_read_can_be_ended_from_another_thread(how: str, tmp_path: Path) -> None:
    waiting = threading.Event()

    def wait(peer: Peer, *_: int) -> None:
        waiting.set()
        peer.stall()

    token = CancelToken()
    clock = SystemClock()
    with HostileServer(tmp_path / "s", answering(wait)):
        opened = NbdReader(
            UnixAddress(tmp_path / "s"), identity="i", cancel=token, deadline_seconds=100
        )
        act = {"token": lambda: token.cancel("test"), "abort": opened.abort, "close": opened.close}

        def stop() -> None:
            waiting.wait()
            act[how]()

        thread = threading.Thread(target=stop)
        thread.start()
        started = clock.monotonic()
        with pytest.raises(StoppedError if how == "token" else ConnectionLostError):
            opened.read_into(0, memoryview(bytearray(65536)))
        assert clock.monotonic() - started < ABORTED_SECONDS
        thread.join()
        opened.close()


@pytest.mark.fault(14, 51)
@pytest.mark.parametrize("kept", [0, 1, 4, 20, 27, 28, 5000])
def test_a_connection_cut_after_any_byte_is_lost_and_the_next_one_works(
    kept: int, tmp_path: Path
) -> None:
    """The first connection ends after ``kept`` bytes of the reply."""
    served: list[int] = []

    def cut_once(peer: Peer) -> None:
        first = not served
        served.append(1)
        peer.haggle(MiB)
        while True:
            request = peer.receive_request()
            content = data(request.offset, b"A" * request.length)
            reply = struct.pack(">LHHQL", 0x668E33EF, 1, 1, request.cookie, len(content)) + content
            peer.send(reply[:kept] if first else reply)
            if first:
                return

    with HostileServer(tmp_path / "s", cut_once):
        opened = reader(tmp_path / "s")
        buffer = bytearray(65536)
        with pytest.raises(ConnectionLostError):
            opened.read_into(0, memoryview(buffer))
        opened.read_into(0, memoryview(buffer))
        assert buffer == b"A" * 65536
        opened.close()


@pytest.mark.fault(36)
def test_another_disk_behind_the_same_name_is_another_point(tmp_path: Path) -> None:
    sizes = iter([MiB, 2 * MiB])

    def grows(peer: Peer) -> None:
        peer.haggle(next(sizes))

    with HostileServer(tmp_path / "s", grows):
        opened = reader(tmp_path / "s")
        with pytest.raises(ConnectionLostError):
            opened.read_into(0, memoryview(bytearray(512)))
        with pytest.raises(PointLostError, match="changed"):
            opened.read_into(0, memoryview(bytearray(512)))
        opened.close()


def test_the_two_contexts_may_end_in_different_places(tmp_path: Path) -> None:
    def uneven(peer: Peer) -> None:
        peer.haggle(GiB, dirty=True)
        while True:
            request = peer.receive_request()
            peer.status(request.cookie, 1, (MiB, 3), (request.length, 0), done=False)
            peer.status(request.cookie, 2, (2 * MiB, 1), (MiB, 0), done=True)

    with HostileServer(tmp_path / "s", uneven):
        opened = reader(tmp_path / "s", dirty="b")
        walk = opened.extents(0, 6 * MiB)
        kinds = [(e.kind.value, e.length // MiB) for e in walk]
        assert kinds == [("zero", 1), ("data", 1), ("clean", 1)] * 2
        opened.close()


@pytest.mark.fault(31)
def test_tracking_that_vanishes_on_reconnect_is_not_taken_for_clean(tmp_path: Path) -> None:
    answers = iter([True, False])

    def forgets(peer: Peer) -> None:
        peer.haggle(GiB, dirty=next(answers))

    with HostileServer(tmp_path / "s", forgets):
        opened = reader(tmp_path / "s", dirty="b")
        for _ in range(2):
            with pytest.raises((ConnectionLostError, PointLostError, TrackingLostError)):
                list(opened.extents(0, MiB))
        opened.close()


def test_errors_of_one_range_leave_the_connection_alone(tmp_path: Path) -> None:
    def bad_first_half(peer: Peer, cookie: int, offset: int, length: int) -> None:
        if offset:
            peer.chunk(cookie, 1, data(offset, b"B" * length))
            return
        payload = struct.pack(">LH", 5, 6) + b"broken" + struct.pack(">Q", 512)
        peer.chunk(cookie, 1, data(offset, b"A" * 512), done=False)
        peer.chunk(cookie, 0x8002, payload)

    with HostileServer(tmp_path / "s", answering(bad_first_half)) as server:
        opened = reader(tmp_path / "s")
        buffer = bytearray(1024)
        with pytest.raises(SourceReadError, match="broken") as caught:
            opened.read_into(0, memoryview(buffer))
        assert caught.value.operands["at"] == 512
        assert caught.value.operands["length"] == 1024
        opened.read_into(4096, memoryview(buffer))
        assert buffer == b"B" * 1024
        assert server.connections == 1
        opened.close()


def test_a_reader_may_say_better_why_its_export_fails(tmp_path: Path) -> None:
    def einval(peer: Peer, cookie: int, _offset: int, _length: int) -> None:
        peer.chunk(cookie, 0x8001, struct.pack(">LH", 22, 0))

    def lost(error: SealiftError) -> SealiftError:
        return PointLostError("the snapshot broke") if isinstance(error, SourceReadError) else error

    with HostileServer(tmp_path / "s", answering(einval)):
        opened = NbdReader(UnixAddress(tmp_path / "s"), identity="i", on_read_error=lost)
        with pytest.raises(PointLostError, match="the snapshot broke"):
            opened.read_into(0, memoryview(bytearray(512)))
        opened.close()


@pytest.mark.parametrize(
    ("errno", "expected"), [(108, ConnectionLostError), (12, SealiftError), (5, SourceReadError)]
)
def test_error_numbers_have_their_class(
    errno: int, expected: type[SealiftError], tmp_path: Path
) -> None:
    def refuse(peer: Peer, cookie: int, _offset: int, _length: int) -> None:
        peer.chunk(cookie, 0x8001, struct.pack(">LH", errno, 0))

    error = fails(tmp_path / "s", answering(refuse))
    assert isinstance(error, expected)
    assert error.retryable == (errno != 5)


def test_a_read_that_is_too_long_for_one_piece_is_asked_for_in_pieces(tmp_path: Path) -> None:
    def prefers_pieces(peer: Peer) -> None:
        peer.haggle(MiB, 1 | 2 | 128)
        while True:
            request = peer.receive_request()
            if request.flags:
                peer.chunk(request.cookie, 0x8001, struct.pack(">LH", 75, 0))
                continue
            half = request.length // 2
            peer.chunk(request.cookie, 1, data(request.offset + half, b"B" * half), done=False)
            peer.chunk(request.cookie, 1, data(request.offset, b"A" * half))

    with HostileServer(tmp_path / "s", prefers_pieces), closing(reader(tmp_path / "s")) as opened:
        buffer = bytearray(8192)
        opened.read_into(0, memoryview(buffer))
        assert buffer == b"A" * 4096 + b"B" * 4096


@pytest.mark.parametrize(("flags", "match"), [(3, "one piece"), (3 | 128, "EOVERFLOW")])
def test_who_demands_bytes_is_never_shown_pieces(flags: int, match: str, tmp_path: Path) -> None:
    def refuses(peer: Peer) -> None:
        peer.haggle(MiB, flags)
        request = peer.receive_request()
        assert request.flags
        peer.chunk(request.cookie, 0x8001, struct.pack(">LH", 75, 0)).stall()

    path = tmp_path / "s"
    with HostileServer(path, refuses), pytest.raises(SourceError, match=match):
        _read_unfragmented(path)


def _read_unfragmented(path: Path) -> None:
    with closing(NbdReader(UnixAddress(path), identity="i", unfragmented=True)) as opened:
        opened.read_into(0, memoryview(bytearray(8192)))


def test_listing_contexts_is_bounded_too(tmp_path: Path) -> None:
    script = option_answer(
        lambda p, o: [p.option_reply(o, 4, b"\0\0\0\0qemu:x") for _ in range(9999)], at=9
    )
    with HostileServer(tmp_path / "s", script), pytest.raises(ProtocolError, match="more than"):
        list_contexts(Endpoint(UnixAddress(tmp_path / "s"), deadline_seconds=20), "qemu:")
