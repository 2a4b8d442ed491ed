"""The contract suites against nbdkit, qemu-nbd and QEMU's own server."""

import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from connectors.nbd import NbdReader, NbdWriter, UnixAddress
from sandbox.nbd.servers import Process, Qemu, nbdkit, qemu_nbd
from sealift.disk import Unwritten
from sealift.testing.contracts import (
    ReaderCase,
    ReaderContract,
    WriterCase,
    WriterContract,
    pattern,
)
from sealift.units import KiB, MiB

pytestmark = pytest.mark.tools

SIZE = 4 * MiB + 512


def disk_bytes(size: int = SIZE) -> bytes:
    """Runs of data of all lengths between zeroes."""
    rng = random.Random(5)
    content = b""
    while len(content) < size:
        content += rng.randbytes(rng.randrange(1, 300_000)) + bytes(rng.randrange(1, 300_000))
    return content[:size]


def sparse_file(path: Path, content: bytes) -> Path:
    """A raw file with holes where whole 4 KiB blocks are zero."""
    with path.open("wb") as file:
        for start in range(0, len(content), 4096):
            if any(content[start : start + 4096]):
                file.seek(start)
                file.write(content[start : start + 4096])
        file.truncate(len(content))
    return path


def qcow2(path: Path, raw: Path) -> Path:
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path)
    return path


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


NBDKIT: dict[str, list[str]] = {
    "file": [],
    "no-structured-replies": ["--no-sr"],
    "no-extents": ["--filter=noextents"],
    "blocks-of-512": ["--filter=blocksize-policy"],
    "one-connection": ["--filter=multi-conn"],
    "short-requests": ["--filter=blocksize-policy"],
}
PARAMETERS: dict[str, list[str]] = {
    "blocks-of-512": ["blocksize-minimum=512", "blocksize-error-policy=error"],
    "one-connection": ["multi-conn-mode=disable"],
    "short-requests": ["blocksize-maximum=64k", "blocksize-error-policy=error"],
}


class TestNbdkitReader(ReaderContract):
    @pytest.fixture(params=NBDKIT)
    def reader_case(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ReaderCase]:
        content = disk_bytes()
        disk = sparse_file(tmp_path / "disk", content)
        name, where = request.param, tmp_path / "socket"
        arguments = [*NBDKIT[name], "--readonly", "file", str(disk), *PARAMETERS.get(name, [])]
        with nbdkit(where, *arguments):
            yield ReaderCase(lambda: NbdReader(UnixAddress(where), identity="i"), content)


class TestQemuNbdReader(ReaderContract):
    @pytest.fixture(params=["raw", "qcow2"])
    def reader_case(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ReaderCase]:
        content = disk_bytes()
        raw = sparse_file(tmp_path / "raw", content)
        image = raw if request.param == "raw" else qcow2(tmp_path / "qcow2", raw)
        where = tmp_path / "socket"
        with qemu_nbd(where, "--read-only", f"--format={request.param}", str(image)):
            yield ReaderCase(lambda: NbdReader(UnixAddress(where), identity="i"), content)


class TestQemuReaderWithBitmap(ReaderContract):
    """QEMU's built-in server; a disk written, zeroed and discarded since the bitmap began."""

    @pytest.fixture
    def reader_case(self, tmp_path: Path) -> Iterator[ReaderCase]:
        base = pattern(SIZE)
        image = qcow2(tmp_path / "disk", sparse_file(tmp_path / "raw", base))
        now = bytearray(base)
        with Qemu(tmp_path) as qemu:
            qemu.add_disk("d", image, "qcow2")
            qemu.add_bitmap("d", "b")
            for command, start, length, fill in [
                ("write -P 65", 64 * KiB, 128 * KiB, b"A"),
                ("write -z -u", MiB, MiB, b"\0"),
                ("discard", 3 * MiB, 64 * KiB, b"\0"),
                ("write -z", 3 * MiB + 512, 100 * KiB, b"\0"),
                ("write -P 66", SIZE - 512, 512, b"B"),
            ]:
                qemu.write("d", f"{command} {start} {length}")
                now[start : start + length] = fill * length
            qemu.freeze_bitmap("d", "b")
            qemu.export("d", name="e", bitmaps=["b"])
            address = UnixAddress(qemu.nbd_path)
            yield ReaderCase(
                lambda: NbdReader(address, export="e", identity="i", dirty_bitmap="b"),
                bytes(now),
                base,
            )


Start = Callable[[Path, Path], Process]


def _nbdkit_file(where: Path, disk: Path) -> Process:
    return nbdkit(where, "file", str(disk))


def _nbdkit_one_connection(where: Path, disk: Path) -> Process:
    return nbdkit(where, "--filter=multi-conn", "file", str(disk), "multi-conn-mode=disable")


def _nbdkit_no_zero(where: Path, disk: Path) -> Process:
    return nbdkit(where, "--filter=nozero", "file", str(disk))


def _nbdkit_small(where: Path, disk: Path) -> Process:
    limits = ["blocksize-minimum=4096", "blocksize-maximum=64k", "blocksize-error-policy=error"]
    return nbdkit(where, "--filter=blocksize-policy", "file", str(disk), *limits)


def _qemu_nbd_raw(where: Path, disk: Path) -> Process:
    return qemu_nbd(where, "--format=raw", "--discard=unmap", str(disk))


WRITERS: dict[str, Start] = {
    "nbdkit-file": _nbdkit_file,
    "nbdkit-one-connection": _nbdkit_one_connection,
    "nbdkit-no-zero": _nbdkit_no_zero,
    "nbdkit-small-requests": _nbdkit_small,
    "qemu-nbd-raw": _qemu_nbd_raw,
}


class TestServerOverAFile(WriterContract):
    @pytest.fixture(params=WRITERS)
    def writer_case(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[WriterCase]:
        start, where, disk = WRITERS[request.param], tmp_path / "socket", tmp_path / "disk"
        size = 4 * MiB if "small" in request.param else SIZE
        sparse_file(disk, bytes(size))
        with ExitStack() as running:
            server = running.enter_context(start(where, disk))

            def crash() -> None:
                """Kill the server; the page cache is the durable medium here."""
                server.kill()
                where.unlink(missing_ok=True)
                running.enter_context(start(where, disk))

            yield WriterCase(
                open=lambda: NbdWriter(UnixAddress(where), identity="w", unwritten=Unwritten.ZERO),
                content=disk.read_bytes,
                crash=crash,
            )


class TestQemuWriter(WriterContract):
    """QEMU's built-in server over qcow2; the overlay's base shows through."""

    @pytest.fixture
    def writer_case(self, tmp_path: Path) -> Iterator[WriterCase]:
        base = pattern(SIZE)
        image = qcow2(tmp_path / "disk", sparse_file(tmp_path / "raw", base))
        with Qemu(tmp_path) as qemu:
            qemu.add_disk("d", image, "qcow2")
            qemu.export("d", name="e", writable=True)
            address = UnixAddress(qemu.nbd_path)

            def content() -> bytes:
                uri = f"nbd+unix:///e?socket={qemu.nbd_path}"
                copied = subprocess.run(["nbdcopy", uri, "-"], check=True, capture_output=True)
                return copied.stdout

            yield WriterCase(
                open=lambda: NbdWriter(address, export="e", identity="w", unwritten=Unwritten.BASE),
                content=content,
                base=base,
            )
