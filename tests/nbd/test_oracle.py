"""Libnbd's tools say what a disk is; we have to say the same."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from connectors.nbd import Endpoint, NbdReader, UnixAddress, list_contexts
from sandbox.nbd.servers import Process, Qemu, nbdkit, qemu_nbd
from sealift.extents import Extent, Kind, coalesce
from sealift.testing.contracts import read
from sealift.units import KiB, MiB

pytestmark = pytest.mark.tools

SIZE = 64 * MiB


def nbdinfo_map(uri: str, context: str) -> list[tuple[int, int, int]]:
    """(offset, length, flags) as libnbd's tool prints them."""
    command = ["nbdinfo", f"--map={context}", "--json", uri]
    shown = subprocess.run(command, check=True, capture_output=True)
    return [(e["offset"], e["length"], e["type"]) for e in json.loads(shown.stdout)]


def zero_map(uri: str) -> list[Extent]:
    return list(
        coalesce(
            Extent(offset, length, Kind.ZERO if flags & 2 else Kind.DATA)
            for offset, length, flags in nbdinfo_map(uri, "base:allocation")
        )
    )


def nbdcopy(uri: str) -> bytes:
    return subprocess.run(["nbdcopy", uri, "-"], check=True, capture_output=True).stdout


def sparse_raw(folder: Path) -> Path:
    """VM-shaped: written by nbdkit's own reproducible disk."""
    raw = folder / "raw"
    command = ["nbdkit", "--unix", "-", "sparse-random", str(SIZE), "seed=11", "percent=20"]
    subprocess.run([*command, "--run", f'nbdcopy "$uri" {raw}'], check=True)
    return raw


def _sparse_random(where: Path, _folder: Path) -> Process:
    return nbdkit(where, "sparse-random", str(SIZE), "seed=3", "percent=30")


def _raw(where: Path, folder: Path) -> Process:
    return qemu_nbd(where, "--read-only", "--format=raw", str(sparse_raw(folder)))


def _qcow2(where: Path, folder: Path) -> Process:
    image = folder / "qcow2"
    command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2"]
    subprocess.run([*command, str(sparse_raw(folder)), str(image)], check=True)
    return qemu_nbd(where, "--read-only", "--format=qcow2", str(image))


@pytest.fixture(params=[_sparse_random, _raw, _qcow2], ids=["nbdkit", "qemu-raw", "qemu-qcow2"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with request.param(tmp_path / "socket", tmp_path):
        yield tmp_path / "socket"


def test_extents_and_bytes_are_libnbds(server: Path) -> None:
    uri = f"nbd+unix:///?socket={server}"
    with closing(NbdReader(UnixAddress(server), identity="i")) as reader:
        walked = list(reader.extents(0, reader.size))
        assert walked == zero_map(uri)
        assert {e.kind for e in walked} == {Kind.DATA, Kind.ZERO}
        assert read(reader, 0, reader.size) == nbdcopy(uri)


def test_change_tracking_is_libnbds(tmp_path: Path) -> None:
    """QEMU's own case: data, zeroes, a discard of data and small writes since the bitmap."""
    image = tmp_path / "disk"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, str(SIZE)], check=True)
    with Qemu(tmp_path) as qemu:
        qemu.add_disk("d", image, "qcow2")
        qemu.write("d", "write -P 88 0 32M")
        qemu.add_bitmap("d", "b")
        for command in ["write -P 1 1M 3M", "write -z -u 8M 2M", "discard 16M 1M", "write 40M 512"]:
            qemu.write("d", command)
        qemu.freeze_bitmap("d", "b")
        qemu.export("d", name="e", bitmaps=["b"])
        uri = f"nbd+unix:///e?socket={qemu.nbd_path}"
        address = UnixAddress(qemu.nbd_path)
        with closing(NbdReader(address, export="e", identity="i", dirty_bitmap="b")) as reader:
            walked = list(reader.extents(0, reader.size))
        dirty = nbdinfo_map(uri, "qemu:dirty-bitmap:b")
        assert [e for e in walked if e.kind is not Kind.CLEAN] == [
            Extent(MiB, 3 * MiB, Kind.DATA),
            Extent(8 * MiB, 2 * MiB, Kind.ZERO),
            Extent(16 * MiB, MiB, Kind.ZERO),
            Extent(40 * MiB, 64 * KiB, Kind.DATA),
        ]
        changed = {(e.start, e.length) for e in walked if e.kind is not Kind.CLEAN}
        assert changed == {(o, n) for o, n, flags in dirty if flags & 1}
        assert list_contexts(Endpoint(address, "e"), "qemu:") == ("qemu:dirty-bitmap:b",)


def test_a_disk_beyond_32_bits(tmp_path: Path) -> None:
    """5 TiB with data at its ends and across 4 GiB; its extents may exceed what one reply holds."""
    size, disk = 5 << 40, tmp_path / "disk"
    with disk.open("wb") as file:
        for start in (0, (4 << 30) - MiB, size - 2 * MiB):
            file.seek(start)
            file.write(b"x" * 2 * MiB)
        file.truncate(size)
    for where, server in (
        (tmp_path / "a", nbdkit(tmp_path / "a", "--readonly", "file", str(disk))),
        (tmp_path / "b", qemu_nbd(tmp_path / "b", "--read-only", "--format=raw", str(disk))),
    ):
        with server, closing(NbdReader(UnixAddress(where), identity="i")) as reader:
            data = [e for e in reader.extents(0, size) if e.kind is Kind.DATA]
            assert [(e.start, e.length) for e in data] == [
                (0, 2 * MiB),
                ((4 << 30) - MiB, 2 * MiB),
                (size - 2 * MiB, 2 * MiB),
            ]
            assert read(reader, (4 << 30) - 5, 10) == b"x" * 10
