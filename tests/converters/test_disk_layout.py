"""Partition tables and boot paths, on disks made by sfdisk and mtools, and on noise."""

import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.bounded import over
from converters.disk_layout import DiskLayout, Encryption, Table, read_layout
from converters.fat import has_file
from sealift.endpoints import Firmware
from sealift.units import GiB, KiB, MiB

ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
LINUX = "0fc63daf-8483-4772-8e79-3d69d8477de4"
BIOS_BOOT = "21686148-6449-6e6f-744e-656564454649"
FALLBACK = (("EFI", "BOOT"), ("BOOTX64.EFI",))

tools = pytest.mark.tools
MakeDisk = Callable[..., Path]


@pytest.fixture
def disk_of(tmp_path: Path) -> MakeDisk:
    """A disk file partitioned by sfdisk."""

    def make(script: str, size: int = 128 * MiB, name: str = "disk.raw") -> Path:
        path = tmp_path / name
        with path.open("wb") as file:
            file.truncate(size)
        subprocess.run(
            ["sfdisk", "-q", "--no-reread", "--no-tell-kernel", str(path)],
            input=script,
            text=True,
            check=True,
            capture_output=True,
        )
        return path

    return make


def layout(path: Path) -> DiskLayout:
    with path.open("rb") as file:

        def read(offset: int, length: int) -> bytes:
            file.seek(offset)
            return file.read(length)

        return read_layout(read, path.stat().st_size)


def patch(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def fat(path: Path, offset: int, size: int, *options: str) -> None:
    blocks = str(size // 1024)
    command = ["mkfs.vfat", *options, "--offset", str(offset // 512), str(path), blocks]
    subprocess.run(command, check=True, capture_output=True)


def loader(path: Path, offset: int, name: str = "BOOTX64.EFI") -> None:
    source = path.with_name("loader")
    source.write_bytes(b"MZ" + bytes(3000))
    for command in (
        ["mmd", "-i", f"{path}@@{offset}", "::/EFI", "::/EFI/BOOT"],
        ["mcopy", "-i", f"{path}@@{offset}", str(source), f"::/EFI/BOOT/{name}"],
    ):
        subprocess.run(command, check=True, capture_output=True)


@tools
def test_an_mbr_disk_that_boots_by_bios(disk_of: MakeDisk) -> None:
    path = disk_of("label: dos\n start=2048, size=65536, type=c, bootable\n type=83\n")
    empty = layout(path)
    assert empty.table is Table.MBR
    assert empty.bootable_by == frozenset()
    patch(path, 0, b"\xeb\x63\x90".ljust(440, b"\x90"))
    found = layout(path)
    assert [(p.offset, p.length, p.type_id, p.active) for p in found.partitions] == [
        (MiB, 32 * MiB, "0c", True),
        (33 * MiB, 95 * MiB, "83", False),
    ]
    assert found.bootable_by == {Firmware.BIOS}
    assert not found.esp
    assert found.sector_bytes == 512


@tools
def test_logical_partitions_are_found(disk_of: MakeDisk) -> None:
    script = "label: dos\n size=10M, type=83\n type=5\n size=20M, type=83\n size=30M, type=8e\n"
    found = layout(disk_of(script))
    assert [p.type_id for p in found.partitions] == ["83", "83", "8e"]
    assert [p.length for p in found.partitions] == [10 * MiB, 20 * MiB, 30 * MiB]


@tools
def test_a_gpt_disk_that_boots_by_uefi(disk_of: MakeDisk) -> None:
    path = disk_of(f"label: gpt\n size=64M, type={ESP}\n type={LINUX}\n")
    offset = MiB
    bare = layout(path)
    assert bare.table is Table.GPT
    assert bare.esp
    assert bare.bootable_by == frozenset()
    fat(path, offset, 64 * MiB, "-F", "32", "-s", "1")
    assert layout(path).bootable_by == frozenset()
    loader(path, offset)
    found = layout(path)
    assert found.fallback_loader
    assert found.bootable_by == {Firmware.UEFI}
    assert found.backup_table_at_end
    assert [p.type_id for p in found.partitions] == [ESP, LINUX]
    assert sum(p.length for p in found.partitions) <= 128 * MiB


@tools
@pytest.mark.parametrize(
    ("bits", "size", "options"),
    [("12", 4, ["-s", "4"]), ("16", 32, ["-s", "2"]), ("32", 64, ["-s", "1"])],
)
def test_the_loader_is_found_on_every_kind_of_fat(
    disk_of: MakeDisk, bits: str, size: int, options: list[str]
) -> None:
    path = disk_of(f"label: gpt\n size={size}M, type={ESP}\n")
    fat(path, MiB, size * MiB, "-F", bits, *options)
    # Long names and many entries first, so that the directory spans clusters.
    source = path.with_name("a long name that needs several entries of its directory.txt")
    source.write_bytes(b"x")
    image = f"{path}@@{MiB}"
    subprocess.run(["mmd", "-i", image, "::/EFI", "::/EFI/BOOT"], check=True)
    for number in range(60):
        command = ["mcopy", "-i", image, str(source), f"::/EFI/BOOT/long name {number}.config"]
        subprocess.run(command, check=True, capture_output=True)
    assert not layout(path).fallback_loader
    subprocess.run(["mcopy", "-i", image, str(source), "::/EFI/BOOT/BOOTX64.EFI"], check=True)
    assert layout(path).fallback_loader
    subprocess.run(["mdel", "-i", image, "::/EFI/BOOT/BOOTX64.EFI"], check=True)
    assert not layout(path).fallback_loader


@tools
def test_an_esp_on_an_mbr_disk_counts(disk_of: MakeDisk) -> None:
    path = disk_of("label: dos\n size=64M, type=ef\n")
    fat(path, MiB, 64 * MiB, "-F", "16")
    loader(path, MiB)
    found = layout(path)
    assert found.table is Table.MBR
    assert found.bootable_by == {Firmware.UEFI}


@tools
def test_a_disk_may_boot_by_both(disk_of: MakeDisk) -> None:
    path = disk_of(f"label: gpt\n size=1M, type={BIOS_BOOT}\n size=64M, type={ESP}\n")
    fat(path, 2 * MiB, 64 * MiB, "-F", "16")
    loader(path, 2 * MiB)
    patch(path, 0, b"\xeb\x63\x90".ljust(440, b"\x90"))
    found = layout(path)
    assert found.bootable_by == {Firmware.BIOS, Firmware.UEFI}
    assert [p.bios_boot for p in found.partitions] == [True, False]


@tools
def test_a_disk_that_grew_has_its_backup_table_elsewhere(disk_of: MakeDisk) -> None:
    path = disk_of(f"label: gpt\n size=64M, type={ESP}\n")
    assert layout(path).backup_table_at_end
    with path.open("r+b") as file:
        file.truncate(GiB)
    grown = layout(path)
    assert (grown.table, grown.esp, grown.backup_table_at_end) == (Table.GPT, True, False)


@tools
def test_the_backup_table_serves_when_the_first_is_damaged(disk_of: MakeDisk) -> None:
    path = disk_of(f"label: gpt\n size=64M, type={ESP}\n")
    patch(path, 512 + 20, b"\xff")
    assert layout(path).esp
    patch(path, 1024 + 5, b"\xff")
    assert layout(path).esp
    patch(path, path.stat().st_size - 512 + 40, b"\xff")
    broken = layout(path)
    assert broken.table is Table.DAMAGED_GPT
    assert broken.partitions == ()


@tools
def test_a_leftover_gpt_is_ignored_as_systems_ignore_it(disk_of: MakeDisk) -> None:
    path = disk_of(f"label: gpt\n size=64M, type={ESP}\n")
    gpt = path.read_bytes()[512 : 34 * 512]
    subprocess.run(
        ["sfdisk", "-q", "--wipe", "never", "--no-reread", "--no-tell-kernel", str(path)],
        input="label: dos\n size=10M, type=83\n",
        text=True,
        check=True,
        capture_output=True,
    )
    patch(path, 512, gpt)
    found = layout(path)
    assert (found.table, found.esp) == (Table.MBR, False)


@tools
def test_a_disk_with_4096_byte_sectors(disk_of: MakeDisk, tmp_path: Path) -> None:
    """sfdisk cannot be told the sector size of a file, so the table is translated."""
    small = disk_of(f"label: gpt\n start=2048, size=2048, type={ESP}\n", 16 * MiB).read_bytes()
    entries = small[1024 : 1024 + 128 * 128]
    header = bytearray(small[512 : 512 + 92])
    struct.pack_into("<I", header, 16, 0)
    struct.pack_into("<I", header, 16, zlib.crc32(bytes(header)))
    path = tmp_path / "4k.raw"
    path.write_bytes(bytes(16 * MiB))
    patch(path, 0, small[:512])
    patch(path, 4096, bytes(header))
    patch(path, 8192, entries)
    found = layout(path)
    assert (found.table, found.sector_bytes) == (Table.GPT, 4096)
    assert [(p.offset, p.length) for p in found.partitions] == [(8 * MiB, 8 * MiB)]


@tools
def test_file_systems_without_a_table(tmp_path: Path) -> None:
    for name, command in (
        ("fat", ["mkfs.vfat", "-F", "16"]),
        ("ext4", ["mke2fs", "-q", "-F", "-t", "ext4"]),
    ):
        path = tmp_path / name
        with path.open("wb") as file:
            file.truncate(32 * MiB)
        subprocess.run([*command, str(path)], check=True, capture_output=True)
        found = layout(path)
        assert (found.table, found.partitions) == (Table.NONE, ())
        assert Firmware.UEFI not in found.bootable_by


@tools
def test_encrypted_partitions_are_seen(disk_of: MakeDisk) -> None:
    path = disk_of("label: dos\n start=2048, size=20480, type=83\n size=10M, type=7\n type=83\n")
    offsets = [p.offset for p in layout(path).partitions]
    assert not layout(path).encrypted
    patch(path, offsets[0], b"LUKS\xba\xbe\0\2")
    patch(path, offsets[1], b"\xebX\x90-FVE-FS-")
    found = layout(path)
    assert [p.encryption for p in found.partitions] == [
        Encryption.LUKS,
        Encryption.BITLOCKER,
        None,
    ]
    assert found.encrypted


def test_an_empty_disk_is_an_empty_disk() -> None:
    for size in (0, 1, 511, 512, 1024, 4096, MiB):
        found = read_layout(over(bytes(size)), size)
        assert (found.table, found.partitions, found.bootable_by) == (Table.NONE, (), frozenset())


class Bounded:
    """A disk of 64 MiB of which only some bytes are given; counts what is read."""

    size = 64 * MiB

    def __init__(self, pieces: dict[int, bytes]) -> None:
        self.pieces = pieces
        self.total = 0

    def __call__(self, offset: int, length: int) -> bytes:
        assert 0 <= offset < self.size
        assert 0 < length <= 2 * MiB
        assert offset + length <= self.size
        self.total += length
        assert self.total <= 32 * MiB
        data = bytearray(length)
        for start, piece in self.pieces.items():
            low, high = max(start, offset), min(start + len(piece), offset + length)
            if low < high:
                data[low - offset : high - offset] = piece[low - start : high - start]
        return bytes(data)


def check(pieces: dict[int, bytes]) -> DiskLayout:
    found = read_layout(Bounded(pieces), Bounded.size)
    for partition in found.partitions:
        assert 0 < partition.offset < Bounded.size
        assert 0 <= partition.length <= Bounded.size - partition.offset
    return found


numbers = st.integers(0, 2**32 - 1) | st.sampled_from([0, 1, 2, 2047, 2048, 2**31, 2**32 - 1])
mbr_entries = st.tuples(
    st.sampled_from([0, 0x80, 0x7F]),
    st.sampled_from([0, 0x83, 0x05, 0x0F, 0xEE, 0xEF, 0x07]),
    numbers,
    numbers,
)


def mbr_of(entries: list[tuple[int, int, int, int]], code: bytes = b"\xfa") -> bytes:
    packed = b"".join(
        struct.pack("<B3sB3sII", status, b"", kind, b"", first, count)
        for status, kind, first, count in entries
    )
    return code.ljust(446, b"\0") + packed.ljust(64, b"\0") + b"\x55\xaa"


@given(
    st.lists(mbr_entries, max_size=4),
    st.dictionaries(st.integers(0, 2**17 - 1), st.lists(mbr_entries, max_size=4), max_size=6),
)
@settings(max_examples=300)
def test_any_mbr_and_any_chain_of_extended_records(
    entries: list[tuple[int, int, int, int]],
    records: dict[int, list[tuple[int, int, int, int]]],
) -> None:
    pieces = {sector * 512: mbr_of(chain) for sector, chain in records.items()}
    check({**pieces, 0: mbr_of(entries)})


def test_a_ring_of_extended_records_ends() -> None:
    ring = mbr_of([(0, 0x83, 1, 10), (0, 0x05, 0, 10)])
    found = check({0: mbr_of([(0, 0x05, 2048, 1000)]), 2048 * 512: ring})
    assert len(found.partitions) == 1
    steps = {(2048 + n) * 512: mbr_of([(0, 0x83, 1, 1), (0, 0x05, n + 1, 1)]) for n in range(1000)}
    assert len(check({**steps, 0: mbr_of([(0, 0x05, 2048, 1000)])}).partitions) == 128


def gpt_of(
    count: int, entry_bytes: int, table_sector: int, entries: bytes, *, intact: bool = True
) -> dict[int, bytes]:
    length = min(count * entry_bytes, 2 * MiB)
    table = entries.ljust(length, b"\0")[:length]
    crc = zlib.crc32(table) if intact else 0
    fields = (b"EFI PART", 0x10000, 92, 0, 0, 1, 0, 34, 100, bytes(16), table_sector, count)
    head = bytearray(struct.pack("<8sIIIIQQQQ16sQIII", *fields, entry_bytes, crc))
    struct.pack_into("<I", head, 16, zlib.crc32(bytes(head)))
    protective = mbr_of([(0, 0xEE, 1, 2**32 - 1)])
    pieces = {0: protective, 512: bytes(head)}
    if table_sector * 512 < Bounded.size:
        pieces[table_sector * 512] = table
    return pieces


sectors64 = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2, 2**55, 2**63, 2**64 - 1])
gpt_entries = st.builds(
    lambda kind, first, last: (
        kind.bytes_le + bytes(16) + struct.pack("<QQQ", first, last, 0) + bytes(72)
    ),
    st.sampled_from([UUID(ESP), UUID(LINUX), UUID(int=0)]),
    sectors64,
    sectors64,
)


@given(
    st.sampled_from([0, 1, 4, 128, 4096, 4097, 2**31, 2**32 - 1]),
    st.sampled_from([0, 1, 127, 128, 256, 4096, 4097, 2**32 - 1]),
    sectors64.map(lambda s: max(s, 2)),
    st.lists(gpt_entries, max_size=6),
    st.booleans(),
)
@settings(max_examples=300)
def test_any_gpt(
    count: int, entry_bytes: int, table_sector: int, entries: list[bytes], intact: bool
) -> None:
    found = check(gpt_of(count, entry_bytes, table_sector, b"".join(entries), intact=intact))
    assert found.table in (Table.GPT, Table.DAMAGED_GPT)
    if not intact and count and entry_bytes == 128:
        assert found.table is Table.DAMAGED_GPT


def boot_sector(**fields: int) -> bytes:
    sector = bytearray(512)
    struct.pack_into(
        "<3s8sHBHBHHBHHHII",
        sector,
        0,
        b"\xeb\x3c\x90",
        b"mkfs.fat",
        fields.get("sector", 512),
        fields.get("per_cluster", 1),
        fields.get("reserved", 1),
        fields.get("fats", 2),
        fields.get("root_entries", 0),
        fields.get("small", 0),
        0xF8,
        fields.get("small_fat", 0),
        0,
        0,
        0,
        fields.get("large", 120_000),
    )
    struct.pack_into("<I4xI", sector, 36, fields.get("large_fat", 900), fields.get("root", 2))
    sector[510:] = b"\x55\xaa"
    return bytes(sector)


@given(
    st.fixed_dictionaries(
        {
            "sector": st.sampled_from([0, 1, 512, 4096, 65535]),
            "per_cluster": st.integers(0, 255),
            "reserved": st.integers(0, 65535),
            "fats": st.integers(0, 255),
            "root_entries": st.integers(0, 65535),
            "small": st.integers(0, 65535),
            "small_fat": st.integers(0, 65535),
            "large": numbers,
            "large_fat": numbers,
            "root": numbers,
        }
    )
)
@settings(max_examples=300)
def test_any_fat_boot_sector(fields: dict[str, int]) -> None:
    disk = Bounded({MiB: boot_sector(**fields)})
    clipped = over_clipped(disk)
    assert not has_file(clipped, MiB, 60 * MiB, *FALLBACK)


def over_clipped(disk: Bounded) -> Callable[[int, int], bytes]:
    def read(offset: int, length: int) -> bytes:
        end = min(offset + length, disk.size)
        return disk(offset, end - offset) if 0 <= offset < end else b""

    return read


def test_a_ring_of_clusters_ends() -> None:
    boot = boot_sector()
    entry = b"EFI        \x10".ljust(26, b"\0") + struct.pack("<HI", 2, 0)
    other = (b"X" * 11 + b"\x20").ljust(32, b"\1")
    data_at = MiB + 512 + 2 * 900 * 512
    pieces = {
        MiB: boot,
        MiB + 512: struct.pack("<III", 0, 0, 2) * 1,  # cluster 2 follows itself
        data_at: (entry + other * 15),
    }
    assert not has_file(Bounded(pieces), MiB, 60 * MiB, *FALLBACK)


@given(st.binary(min_size=512, max_size=4 * KiB))
def test_noise_is_no_disk_that_boots(noise: bytes) -> None:
    for signed in (noise, noise[:510] + b"\x55\xaa" + noise[512:]):
        found = check({0: signed})
        assert Firmware.UEFI not in found.bootable_by
