"""Real servers that fail on demand: nbdkit's fault filters, kills, and broken disks below."""

import socket as socketlib
import subprocess
import threading
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from connectors.nbd import NbdReader, NbdWriter, TcpAddress, UnixAddress
from sandbox.nbd.servers import free_port, nbdkit, qemu_nbd
from sealift.cancel import CancelToken
from sealift.clock import SystemClock
from sealift.disk import Unwritten
from sealift.errors import (
    ConnectionLostError,
    SourceError,
    SourceReadError,
    StoppedError,
    TargetDeniedError,
    TargetError,
)
from sealift.extents import Extent, Kind
from sealift.testing.contracts import pattern, read
from sealift.units import KiB, MiB

pytestmark = pytest.mark.tools


def open_reader(path: Path, seconds: float = 20.0) -> NbdReader:
    return NbdReader(UnixAddress(path), identity="i", deadline_seconds=seconds)


def open_writer(path: Path, seconds: float = 20.0) -> NbdWriter:
    return NbdWriter(
        UnixAddress(path), identity="w", unwritten=Unwritten.ZERO, deadline_seconds=seconds
    )


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(pattern(2 * MiB))
    return path


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "socket"


def test_read_errors_come_and_go_with_their_trigger(socket: Path, disk: Path) -> None:
    trigger = disk.with_name("trigger")
    arguments = ["error-pread=EIO", "error-pread-rate=100%", f"error-pread-file={trigger}"]
    with (
        nbdkit(socket, "--filter=error", "file", str(disk), *arguments),
        closing(open_reader(socket)) as reader,
    ):
        assert read(reader, 0, 4096) == pattern(2 * MiB)[:4096]
        trigger.touch()
        with pytest.raises(SourceReadError, match="EIO") as caught:
            read(reader, 4096, 512)
        assert caught.value.operands["offset"] == 4096
        trigger.unlink()
        assert read(reader, 0, 4096) == pattern(2 * MiB)[:4096]


def test_a_failing_status_makes_everything_data(socket: Path, disk: Path) -> None:
    arguments = ["error-extents=EIO", "error-extents-rate=100%"]
    with (
        nbdkit(socket, "--filter=error", "file", str(disk), *arguments),
        closing(open_reader(socket)) as reader,
    ):
        assert list(reader.extents(0, reader.size)) == [Extent(0, 2 * MiB, Kind.DATA)]


@pytest.mark.fault(7)
@pytest.mark.parametrize(
    ("errno", "expected"),
    [("EIO", TargetError), ("ENOSPC", TargetError), ("EPERM", TargetDeniedError)],
)
def test_write_errors_have_their_class(
    errno: str, expected: type[TargetError], socket: Path, disk: Path
) -> None:
    arguments = [f"error-{verb}={errno}" for verb in ("pwrite", "zero")]
    rates = [f"error-{verb}-rate=100%" for verb in ("pwrite", "zero")]
    with (
        nbdkit(socket, "--filter=error", "file", str(disk), *arguments, *rates),
        closing(open_writer(socket)) as writer,
    ):
        with pytest.raises(expected, match=errno):
            writer.write(0, memoryview(bytes(64 * KiB)), [])
        with pytest.raises(expected, match=errno):
            writer.zero(0, 64 * KiB)
        writer.flush()


@pytest.mark.fault(15)
def test_a_slow_disk_meets_the_deadline_and_is_not_waited_for(socket: Path, disk: Path) -> None:
    with (
        nbdkit(socket, "--filter=delay", "file", str(disk), "rdelay=60"),
        closing(open_reader(socket, seconds=3)) as reader,
        pytest.raises(ConnectionLostError, match="within"),
    ):
        read(reader, 0, 512)


def test_a_stop_ends_a_slow_read(socket: Path, disk: Path) -> None:
    token = CancelToken()
    clock = SystemClock()
    with nbdkit(socket, "--filter=delay", "file", str(disk), "rdelay=90"):
        reader = NbdReader(UnixAddress(socket), identity="i", cancel=token, deadline_seconds=60)
        timer = threading.Timer(0.2, token.cancel, ["test"])
        timer.start()
        started = clock.monotonic()
        with pytest.raises(StoppedError):
            read(reader, 0, 512)
        assert clock.monotonic() - started < 50
        timer.join()
        reader.close()


@pytest.mark.fault(14)
def test_a_server_that_dies_and_comes_back_is_used_again(socket: Path, disk: Path) -> None:
    content = pattern(2 * MiB)
    first = nbdkit(socket, "file", str(disk))
    with closing(open_reader(socket)) as reader:
        assert read(reader, 0, 4096) == content[:4096]
        first.kill()
        with pytest.raises(ConnectionLostError):
            read(reader, 0, 4096)
        with pytest.raises(ConnectionLostError):  # the socket is there, nobody listens
            read(reader, 0, 4096)
        socket.unlink()
        with pytest.raises(SourceError, match="No such file"):
            read(reader, 0, 4096)
        with nbdkit(socket, "file", str(disk)):
            assert read(reader, 4096, 4096) == content[4096:8192]
            reader.close()


def test_a_server_that_ends_on_its_own_is_seen(socket: Path, disk: Path) -> None:
    """nbdkit's exitwhen filter: no new clients once the file is there."""
    gone = disk.with_name("gone")
    arguments = [f"exit-when-file-created={gone}", "exit-when-poll=1"]
    with nbdkit(socket, "--filter=exitwhen", "file", str(disk), *arguments):
        reader = open_reader(socket)
        gone.touch()
        reader.close()
        with pytest.raises((ConnectionLostError, SourceError)):
            _open_often(socket)


def _open_often(socket: Path) -> None:
    for _ in range(100):
        open_reader(socket).close()


def test_many_threads_share_few_connections(socket: Path, disk: Path) -> None:
    """Twelve threads, two connections: nobody waits for ever, nobody gets another's bytes."""
    content = pattern(2 * MiB)
    wrong: list[int] = []
    with nbdkit(socket, "file", str(disk)):
        reader = NbdReader(UnixAddress(socket), identity="i", connections=2)

        def work(number: int) -> None:
            for offset in range(number * 1000, 2 * MiB - 5000, 91_003):
                if read(reader, offset, 5000) != content[offset : offset + 5000]:
                    wrong.append(offset)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        reader.close()
    assert not wrong


def test_no_more_connections_than_asked_for(socket: Path, disk: Path) -> None:
    with nbdkit(socket, "file", str(disk)):
        reader = NbdReader(UnixAddress(socket), identity="i", connections=3)
        assert reader.connections == 3
        reader.close()
    one = socket.with_name("one")
    with nbdkit(one, "--filter=multi-conn", "file", str(disk), "multi-conn-mode=disable"):
        reader = open_reader(one)
        assert reader.connections == 1
        reader.close()


def test_a_read_only_export_is_no_target(socket: Path, disk: Path) -> None:
    with (
        nbdkit(socket, "--readonly", "file", str(disk)),
        pytest.raises(TargetDeniedError, match="read-only"),
    ):
        open_writer(socket)


def test_a_target_that_cannot_flush_is_refused(socket: Path) -> None:
    script = ["get_size=echo 1M", "can_write=exit 0", "pread=exit 1", "pwrite=exit 0"]
    with (
        nbdkit(socket, "eval", *script, "can_flush=exit 3"),
        pytest.raises(TargetError, match="cannot flush"),
    ):
        open_writer(socket)


def test_a_grid_that_does_not_fit_is_refused(socket: Path, disk: Path) -> None:
    limits = ["blocksize-minimum=4096", "blocksize-error-policy=error"]
    with (
        nbdkit(socket, "--filter=blocksize-policy", "file", str(disk), *limits),
        pytest.raises(TargetError, match="blocks of 4096"),
    ):
        NbdWriter(UnixAddress(socket), identity="w", unwritten=Unwritten.ZERO, block_size=512)


@pytest.mark.fault(5)
def test_acknowledged_writes_of_a_dead_server_are_not_called_durable(
    socket: Path, disk: Path
) -> None:
    """A server that came back may have lost them; a flush of the new one proves nothing."""
    first = nbdkit(socket, "file", str(disk))
    writer = open_writer(socket)
    writer.write(0, memoryview(bytes(64 * KiB)), [])
    first.kill()
    socket.unlink()
    with nbdkit(socket, "file", str(disk)):
        with pytest.raises(ConnectionLostError):
            writer.write(64 * KiB, memoryview(bytes(64 * KiB)), [])
        for _ in range(2):
            with pytest.raises(TargetError, match="may be lost"):
                writer.flush()
        with pytest.raises(TargetError, match="may be lost"):
            writer.write(64 * KiB, memoryview(bytes(64 * KiB)), [])
        with pytest.raises(TargetError, match="may be lost"):
            writer.commit([])
        writer.close()


def test_flushed_writes_survive_a_server_and_the_writer_goes_on(socket: Path, disk: Path) -> None:
    first = nbdkit(socket, "file", str(disk))
    writer = open_writer(socket)
    writer.write(0, memoryview(bytes(64 * KiB)), [])
    writer.flush()
    first.kill()
    socket.unlink()
    with nbdkit(socket, "file", str(disk)):
        with pytest.raises(ConnectionLostError):
            writer.write(64 * KiB, memoryview(bytes(64 * KiB)), [])
        writer.write(64 * KiB, memoryview(bytes(64 * KiB)), [])
        writer.commit([])
        writer.close()
    assert disk.read_bytes() == bytes(128 * KiB) + pattern(2 * MiB)[128 * KiB :]


@pytest.mark.fault(5)
def test_a_failed_flush_is_final(socket: Path, disk: Path) -> None:
    trigger = disk.with_name("trigger")
    trigger.touch()
    # The error filter of nbdkit 1.32 cannot fail a flush; a script can.
    script = [
        *("get_size=echo 2M", "can_write=exit 0", "can_flush=exit 0", "pread=exit 1"),
        *("pwrite=exit 0", f"flush=test ! -e {trigger} || {{ echo EIO flush >&2; exit 1; }}"),
    ]
    with nbdkit(socket, "eval", *script):
        writer = open_writer(socket)
        writer.write(0, memoryview(bytes(64 * KiB)), [])
        with pytest.raises(TargetError, match="EIO"):
            writer.flush()
        trigger.unlink()
        with pytest.raises(TargetError, match="may be lost"):
            writer.flush()
        writer.close()


def test_a_write_that_failed_is_not_counted_as_lost(socket: Path, disk: Path) -> None:
    """The first write never returned: it is repeated, nothing was promised."""
    first = nbdkit(socket, "file", str(disk))
    writer = open_writer(socket)
    first.kill()
    socket.unlink()
    with nbdkit(socket, "file", str(disk)):
        with pytest.raises(ConnectionLostError):
            writer.write(0, memoryview(bytes(64 * KiB)), [])
        writer.write(0, memoryview(bytes(64 * KiB)), [])
        writer.commit([])
        writer.close()


@pytest.mark.fault(37)
def test_a_broken_sector_below_qemu_names_its_place(socket: Path, disk: Path) -> None:
    raw = f"driver=raw,file.driver=blkdebug,file.image.driver=file,file.image.filename={disk}"
    fault = "file.inject-error.0.event=read_aio,file.inject-error.0.sector=8"
    options = ["--image-opts", f"{raw},{fault},file.inject-error.0.errno=5"]
    with (
        qemu_nbd(socket, "--read-only", *options),
        closing(open_reader(socket)) as reader,
    ):
        with pytest.raises(SourceReadError) as caught:
            read(reader, 0, 64 * KiB)
        assert caught.value.operands == {
            "errno": 5,
            "offset": 0,
            "length": 64 * KiB,
            "at": None,
        }
        assert read(reader, MiB, 4096) == pattern(2 * MiB)[MiB : MiB + 4096]


def test_a_place_where_no_server_can_be_is_named_at_once(tmp_path: Path) -> None:
    for path in (tmp_path / "none", Path("/" + "x" * 200)):
        with pytest.raises(SourceError, match="no NBD server at"):
            open_reader(path)


@pytest.mark.fault(14)
@pytest.mark.parametrize("how", ["deadline", "token"])
def test_a_black_hole_is_left_in_time(how: str) -> None:
    """A listener whose queue is full: the kernel answers no further SYN."""
    clock, token = SystemClock(), CancelToken()
    timer = threading.Timer(0.3, token.cancel, ["test"])
    with socketlib.socket() as hole, ExitStack() as queue:
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        port = hole.getsockname()[1]
        for _ in range(3):
            filler = queue.enter_context(socketlib.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        if how == "token":
            timer.start()
        started = clock.monotonic()
        with pytest.raises(StoppedError if how == "token" else ConnectionLostError):
            NbdReader(
                TcpAddress("127.0.0.1", port),
                identity="i",
                deadline_seconds=0.1 if how == "deadline" else 60,
                cancel=token,
            )
        assert clock.monotonic() - started < 50
        timer.cancel()


@pytest.mark.fault(13)
def test_a_refused_port_is_a_lost_connection_and_an_unknown_host_is_not() -> None:
    with pytest.raises(ConnectionLostError):
        NbdReader(TcpAddress("127.0.0.1", free_port()), identity="i")
    with pytest.raises((SourceError, ConnectionLostError), match=r"host\.invalid"):
        NbdReader(TcpAddress("host.invalid"), identity="i")


def test_no_process_is_left(socket: Path, disk: Path) -> None:
    with nbdkit(socket, "file", str(disk)) as server:
        pid = server.pid
    found = subprocess.run(["ps", "-p", str(pid)], capture_output=True, check=False)
    assert found.returncode == 1
