"""Who serves an export is told from the socket alone."""

import socket
from pathlib import Path

import pytest

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
