"""Who serves an export is told from the socket alone."""

import os
import socket
from contextlib import closing
from pathlib import Path

import pytest

from connectors.nbd import NbdReader, UnixAddress
from connectors.nbd.connection import Connection
from connectors.nbd.neighbours import READ_REQUEST_BYTES, Server, server_behind
from sandbox.nbd.servers import nbdkit, qemu_nbd
from sealift.units import KiB, MiB


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    (tmp_path / "disk").write_bytes(bytes(MiB))
    return tmp_path / "disk"


def behind(path: Path) -> Server:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        return server_behind(client)


@pytest.mark.tools
def test_qemu_sends_in_one_thread_and_nbdkit_in_many(tmp_path: Path, disk: Path) -> None:
    with qemu_nbd(tmp_path / "q", "--read-only", "--format=raw", str(disk)):
        assert behind(tmp_path / "q") is Server.ONE_THREAD
    with nbdkit(tmp_path / "n", "--readonly", "file", str(disk)):
        assert behind(tmp_path / "n") is Server.MANY_THREADS


def test_who_is_reached_by_a_network_is_distant_and_who_is_gone_is_anybody(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        assert server_behind(client) is Server.DISTANT
    with socket.socket(socket.AF_UNIX) as alone:
        assert server_behind(alone) is Server.MANY_THREADS


@pytest.mark.parametrize(
    ("length", "halves"),
    [
        (512, READ_REQUEST_BYTES),
        (1 * MiB, READ_REQUEST_BYTES),
        (1 * MiB + 512, 1 * MiB),
        (3 * MiB, 1536 * KiB),
        (4 * MiB, 2 * MiB),
    ],
)
def test_threads_get_halves_and_one_thread_gets_many_pieces(length: int, halves: int) -> None:
    assert Server.MANY_THREADS.request_bytes(length) == halves
    assert Server.ONE_THREAD.request_bytes(length) == READ_REQUEST_BYTES
    assert Server.DISTANT.request_bytes(length) == READ_REQUEST_BYTES


@pytest.mark.tools
@pytest.mark.parametrize(("server", "asked"), [("qemu-nbd", 4 * [MiB]), ("nbdkit", [4 * MiB])])
def test_one_thread_is_asked_for_what_its_cache_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str, asked: list[int]
) -> None:
    content, where, real = os.urandom(4 * MiB), tmp_path / "socket", Connection.read_into
    (tmp_path / "large").write_bytes(content)
    words, lengths = [str(tmp_path / "large")], list[int]()

    def read_into(self: Connection, offset: int, view: memoryview) -> None:
        lengths.append(len(view))
        real(self, offset, view)

    monkeypatch.setattr(Connection, "read_into", read_into)
    start = (
        qemu_nbd(where, "--read-only", "--format=raw", *words)
        if server == "qemu-nbd"
        else nbdkit(where, "--readonly", "file", *words)
    )
    buffer = bytearray(len(content))
    with start, closing(NbdReader(UnixAddress(where), identity="x", connections=4)) as reader:
        reader.read_into(0, memoryview(buffer))
    assert buffer == content
    assert lengths == asked
