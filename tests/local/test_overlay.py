"""A writable layer over a read-only export: bounded, private, gone at the end."""

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.local.overlay import LEAST_LIMIT_BYTES, OverlayServer
from connectors.nbd.address import UnixAddress
from connectors.nbd.disk import NbdReader
from connectors.nbd.server import NbdServer
from sealift.clock import SystemClock
from sealift.errors import UsageError
from sealift.testing.memory import MemoryReader
from sealift.units import KiB, MiB

pytestmark = pytest.mark.tools

CONTENT = bytes(range(256)) * (64 * KiB)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="slo-") as name:
        yield Path(name)


@pytest.fixture
def base(folder: Path) -> Iterator[UnixAddress]:
    address = UnixAddress(folder / "base")
    with NbdServer({"vda": MemoryReader(CONTENT)}, address):
        yield address


def overlay(folder: Path, base: UnixAddress, limit: int) -> OverlayServer:
    size = len(CONTENT)
    return OverlayServer(base, "vda", size, folder / "top", limit, folder, SystemClock())


def write(address: UnixAddress, at: int, length: int, pattern: int) -> tuple[int, str]:
    uri = f"nbd+unix:///?socket={address.path}"
    command = ["qemu-io", "-f", "raw", "-c", f"write -P {pattern} {at} {length}", uri]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def read(address: UnixAddress, at: int, length: int, export: str = "") -> bytes:
    reader = NbdReader(address, identity="x", export=export)
    found = bytearray(length)
    reader.read_into(at, memoryview(found))
    reader.close()
    return bytes(found)


def test_writes_are_seen_there_and_nowhere_else_and_are_gone_at_the_end(
    folder: Path, base: UnixAddress
) -> None:
    with overlay(folder, base, 16 * MiB) as server:
        assert write(server.address, 64 * KiB, 64 * KiB, 0xAB)[0] == 0
        assert read(server.address, 64 * KiB, 64 * KiB) == b"\xab" * (64 * KiB)
        assert read(server.address, 0, 64 * KiB) == CONTENT[: 64 * KiB]
        assert read(base, 64 * KiB, 64 * KiB, "vda") == CONTENT[64 * KiB : 128 * KiB]
        assert list(folder.glob("sealift-overlay-*"))
    assert sorted(p.name for p in folder.iterdir()) == ["base"]
    with overlay(folder, base, 16 * MiB) as server:
        assert read(server.address, 64 * KiB, 64 * KiB) == CONTENT[64 * KiB : 128 * KiB]


def test_no_more_is_written_than_the_limit_and_what_was_written_before_is_good(
    folder: Path, base: UnixAddress
) -> None:
    with overlay(folder, base, LEAST_LIMIT_BYTES) as server:
        assert write(server.address, 0, 1 * MiB, 0x11)[0] == 0
        code, said = write(server.address, 2 * MiB, 8 * MiB, 0x22)
        assert "No space left" in said, (code, said)
        assert read(server.address, 0, 1 * MiB) == b"\x11" * MiB
        (file,) = folder.glob("sealift-overlay-*/overlay.qcow2")
        assert file.stat().st_size <= LEAST_LIMIT_BYTES


def test_a_limit_that_holds_nothing_and_a_socket_that_is_there_are_refused(
    folder: Path, base: UnixAddress
) -> None:
    with pytest.raises(UsageError, match="hold no overlay"):
        overlay(folder, base, 1)
    (folder / "top").touch()
    with pytest.raises(UsageError, match="there already"):
        overlay(folder, base, 16 * MiB)
    assert (folder / "top").exists()
