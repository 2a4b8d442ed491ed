"""Our own server, against our client, QEMU's and libnbd's tools, and against rude clients."""

import random
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from connectors.nbd import NbdReader, UnixAddress
from connectors.nbd.address import NbdAddress, TcpAddress
from connectors.nbd.server import NbdServer
from connectors.nbd.serving import Limits
from sealift.errors import IntegrityError, SealiftError, SourceReadError, UsageError
from sealift.extents import Extent, Kind, coalesce
from sealift.testing.contracts import ReaderCase, ReaderContract
from sealift.testing.memory import MemoryReader
from sealift.units import KiB, MiB
from tests.nbd.test_contract import disk_bytes

SIZE = 4 * MiB + 512


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "served"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def content() -> bytes:
    return disk_bytes(SIZE)


@pytest.fixture
def server(folder: Path, content: bytes) -> Iterator[NbdServer]:
    disks = {"": MemoryReader(content, extents=sparse(content)), "b": MemoryReader(b"b" * 512)}
    with NbdServer(disks, unix(folder)) as made:
        yield made


def sparse(content: bytes) -> list[Extent]:
    """Which pieces of 4 KiB are zero."""
    pieces = [content[n : n + 4096] for n in range(0, len(content), 4096)]
    kinds = [Kind.DATA if any(piece) else Kind.ZERO for piece in pieces]
    starts = range(0, len(content), 4096)
    return list(coalesce(map(Extent, starts, map(len, pieces), kinds)))


def unix(folder: Path) -> UnixAddress:
    return UnixAddress(folder / "s")


def uri(address: NbdAddress, export: str = "") -> str:
    if isinstance(address, TcpAddress):
        return f"nbd://{address.host}:{address.port}/{export}"
    return f"nbd+unix:///{export}?socket={address.path}"


def output(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


class TestOurClient(ReaderContract):
    @pytest.fixture(params=["unix", "tcp"])
    def reader_case(
        self, request: pytest.FixtureRequest, folder: Path, content: bytes
    ) -> Iterator[ReaderCase]:
        address = unix(folder) if request.param == "unix" else TcpAddress("127.0.0.1", 0)
        with NbdServer({"": MemoryReader(content)}, address) as server:
            yield ReaderCase(lambda: NbdReader(server.address, identity="i"), content)


@pytest.mark.tools
def test_qemu_reads_the_same_bytes(server: NbdServer, content: bytes, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    output("qemu-img", "convert", "-f", "raw", "-O", "raw", uri(server.address), copy)
    assert copy.read_bytes() == content


@pytest.mark.tools
def test_libnbd_reads_the_same_bytes_over_several_connections(
    server: NbdServer, content: bytes, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    output("nbdcopy", "--connections=4", "--requests=32", uri(server.address), copy)
    assert copy.read_bytes() == content
    told = output("nbdinfo", "--list", uri(server.address))
    assert 'export="b"' in told
    assert f"export-size: {SIZE}" in told
    assert "is_read_only: true" in told


@pytest.mark.tools
def test_qemu_sees_what_reads_as_zeroes(server: NbdServer, content: bytes) -> None:
    told = output("nbdinfo", "--map", uri(server.address))
    zero = [line.split() for line in told.splitlines() if line.split()[2] == "3"]
    assert zero
    for start, length, *_ in zero:
        assert not any(content[int(start) : int(start) + int(length)])


@pytest.mark.tools
def test_a_throw_away_overlay_of_qemu_leaves_the_disk_alone(
    server: NbdServer, content: bytes, tmp_path: Path
) -> None:
    overlay = tmp_path / "overlay.qcow2"
    backing = ["-b", uri(server.address), "-F", "raw"]
    output("qemu-img", "create", "-q", "-f", "qcow2", *backing, overlay)
    output("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 64k", overlay)
    assert output("qemu-io", "-r", "-f", "qcow2", "-c", "read -P 1 0 64k", overlay)
    copy = tmp_path / "copy"
    output("qemu-img", "convert", "-f", "raw", "-O", "raw", uri(server.address), copy)
    assert copy.read_bytes() == content


def test_writes_are_refused(server: NbdServer) -> None:
    peer = transmitting(server)
    for command, payload in ((1, b"x" * 512), (6, b"")):
        peer.sendall(struct.pack(">LHHQQL", 0x25609513, 0, command, 7, 0, 512) + payload)
        assert struct.unpack(">LLQ", receive(peer, 16)) == (0x67446698, 1, 7)


@pytest.mark.parametrize(
    ("offset", "length", "errno"),
    [(SIZE, 1, 22), (SIZE - 1, 2, 22), (0, 0, 22), (0, 4 * MiB + 1, 75), (1 << 63, 1, 22)],
)
def test_reads_that_cannot_be_answered_are_refused_and_the_next_one_is_not(
    server: NbdServer, content: bytes, offset: int, length: int, errno: int
) -> None:
    peer = transmitting(server)
    peer.sendall(struct.pack(">LHHQQL", 0x25609513, 0, 0, 9, offset, length))
    assert struct.unpack(">LLQ", receive(peer, 16)) == (0x67446698, errno, 9)
    peer.sendall(struct.pack(">LHHQQL", 0x25609513, 0, 0, 10, 512, 512))
    assert struct.unpack(">LLQ", receive(peer, 16)) == (0x67446698, 0, 10)
    assert receive(peer, 512) == content[512:1024]


class Damaged(MemoryReader):
    """A point with one chunk that does not open."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if offset < 64 * KiB:
            raise IntegrityError("chunk 0 of pack 12 is damaged")
        super().read_into(offset, buffer)


def test_a_damaged_chunk_is_an_error_of_that_read_and_says_why(
    folder: Path, content: bytes
) -> None:
    with NbdServer({"": Damaged(content)}, unix(folder)) as server:
        reader = NbdReader(server.address, identity="i")
        with pytest.raises(SourceReadError, match="chunk 0 of pack 12 is damaged"):
            reader.read_into(0, memoryview(bytearray(512)))
        buffer = bytearray(512)
        reader.read_into(64 * KiB, memoryview(buffer))
        reader.close()
    assert bytes(buffer) == content[64 * KiB : 64 * KiB + 512]


def test_no_such_export_is_an_error_with_its_name(server: NbdServer) -> None:
    with pytest.raises(SealiftError, match="no export 'c'"):
        NbdReader(server.address, export="c", identity="i")


@pytest.mark.parametrize("seed", range(40))
def test_rude_clients_end_alone(server: NbdServer, content: bytes, seed: int) -> None:
    rng = random.Random(seed)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(5)
        peer.connect(str(server.address.path))  # type: ignore[union-attr]
        receive(peer, 18)
        peer.sendall(struct.pack(">L", 3) if seed % 2 else rng.randbytes(4))
        for _ in range(rng.randrange(4)):
            body = rng.randbytes(rng.randrange(40))
            code = rng.choice((1, 3, 6, 7, 8, 9, 10, 99))
            length = len(body) if rng.random() < 0.8 else rng.randrange(1 << 32)
            with suppress(OSError):  # it has hung up already
                peer.sendall(struct.pack(">QLL", 0x49484156454F5054, code, length) + body)
    reader = NbdReader(server.address, identity="i")
    buffer = bytearray(4096)
    reader.read_into(0, memoryview(buffer))
    reader.close()
    assert bytes(buffer) == content[:4096]


def test_more_clients_than_allowed_are_turned_away(folder: Path, content: bytes) -> None:
    with NbdServer({"": MemoryReader(content)}, unix(folder), Limits(connections=1)) as server:
        first = transmitting(server)
        with socket.socket(socket.AF_UNIX) as second:
            second.connect(str(folder / "s"))
            assert second.recv(1) == b""
        first.sendall(struct.pack(">LHHQQL", 0x25609513, 0, 0, 1, 0, 512))
        assert receive(first, 16 + 512)[16:] == content[:512]


def test_close_ends_clients_threads_and_the_socket(folder: Path, content: bytes) -> None:
    before = threading.active_count()
    server = NbdServer({"": MemoryReader(content)}, unix(folder))
    peer = transmitting(server)
    server.close()
    server.close()
    assert peer.recv(1) == b""
    assert not (folder / "s").exists()
    for thread in threading.enumerate():
        if thread.name.startswith("sealift-nbd"):
            thread.join(60)
    assert threading.active_count() <= before


@pytest.mark.parametrize("address", [TcpAddress("192.0.2.1", 0), TcpAddress("127.0.0.1", 1)])
def test_nothing_but_this_host_is_served(address: TcpAddress) -> None:
    if address.port == 1:
        taken = socket.create_server(("127.0.0.1", 0))
        address = TcpAddress("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(UsageError, match=r"only 127\.0\.0\.1|cannot be listened on"):
        NbdServer({}, address)


def test_a_folder_that_others_may_change_is_refused(folder: Path) -> None:
    folder.chmod(0o777)
    with pytest.raises(UsageError, match="others may change"):
        NbdServer({}, unix(folder))
    folder.chmod(0o700)
    (folder / "s").write_text("")
    with pytest.raises(UsageError, match="cannot be listened on"):
        NbdServer({}, unix(folder))
    assert (folder / "s").exists()


def transmitting(server: NbdServer) -> socket.socket:
    """A plain client that entered transmission the old way: simple replies."""
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(10)
    peer.connect(str(server.address.path))  # type: ignore[union-attr]
    receive(peer, 18)
    peer.sendall(struct.pack(">LQLL", 3, 0x49484156454F5054, 1, 0))
    receive(peer, 10)
    return peer


def receive(peer: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        part = peer.recv(count - len(found))
        assert part
        found += part
    return found
