"""The VHD footer against the specification's arithmetic and against QEMU's own footers."""

import struct
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters import qemu_img
from converters.bounded import over
from converters.formats import Target, padded_size
from converters.image import Image, ImageFormat
from converters.vhd import (
    FOOTER_BYTES,
    LARGEST_GEOMETRY,
    DiskType,
    Footer,
    Geometry,
    carries_fixed_disk,
    checksum,
    find_footer,
    fixed_footer,
    geometry_of,
    parse_footer,
)
from sealift.errors import ImageError
from sealift.units import GiB, KiB, MiB

NOW = datetime(2026, 11, 23, 22, 0, 0, tzinfo=UTC)
ID = UUID("12345678-1234-5678-1234-567812345678")
# Time, creator and its version, checksum and id: all that may differ from QEMU's.
OWN = (slice(24, 36), slice(64, 84))

Tool = Callable[..., str]


def masked(footer: bytes) -> bytes:
    data = bytearray(footer)
    for part in OWN:
        data[part] = bytes(len(data[part]))
    return bytes(data)


@pytest.mark.tools
@pytest.mark.parametrize(
    "size", [20 * MiB, 256 * MiB + 512, 1000 * MiB, 4 * GiB, 127 * GiB, 2040 * GiB]
)
def test_footer_equals_qemus_byte_for_byte(tmp_path: Path, tool: Tool, size: int) -> None:
    path = tmp_path / "qemu.vhd"
    tool("create", "-f", "vpc", "-o", "subformat=fixed,force_size=on", path, str(size))
    assert path.stat().st_size == size + FOOTER_BYTES
    with path.open("rb") as file:
        file.seek(size)
        theirs = file.read()
    ours = fixed_footer(size, unique_id=ID, created=NOW)
    assert masked(ours) == masked(theirs)
    assert len(ours) == FOOTER_BYTES
    parsed = parse_footer(theirs)
    assert parsed.pack() == theirs
    assert parsed.creator == b"qem2"
    assert parsed.current_size == size


@pytest.mark.tools
def test_converted_footer_equals_ours_too(raw_file: Path, tmp_path: Path, tool: Tool) -> None:
    path, disk = tmp_path / "qemu.vhd", raw_file.read_bytes()
    options = ["-O", "vpc", "-o", "subformat=fixed,force_size=on"]
    tool("convert", "-f", "raw", *options, raw_file, path)
    whole = path.read_bytes()
    assert whole[: len(disk)] == disk
    ours = fixed_footer(len(disk), unique_id=ID, created=NOW)
    assert masked(whole[len(disk) :]) == masked(ours)


@pytest.mark.tools
@pytest.mark.parametrize("size", [MiB, 20 * MiB, 300 * MiB + 512 * KiB, 4 * GiB])
def test_qemu_reads_a_disk_with_our_footer_at_its_full_size(tmp_path: Path, size: int) -> None:
    path = tmp_path / "ours.vhd"
    with path.open("wb") as file:
        file.write(b"first sector".ljust(512, b"."))
        file.seek(size)
        file.write(fixed_footer(size, unique_id=ID, created=NOW))
    bare = subprocess.run(
        ["qemu-img", "info", "-f", "vpc", "--output=json", str(path)],
        check=True,
        capture_output=True,
    )
    assert f'"virtual-size": {size},'.encode() in bare.stdout
    assert qemu_img.info(Image(path, ImageFormat.VHD)).virtual_size_bytes == size


@pytest.mark.tools
@pytest.mark.parametrize("cylinders", [1, 80, 1023, 1024, 4000, 16383, 65535])
def test_geometry_is_what_qemu_calculates(tmp_path: Path, tool: Tool, cylinders: int) -> None:
    """Without force_size QEMU writes the specification's geometry for what it rounded to."""
    path = tmp_path / "chs.vhd"
    for heads, per_track in ((4, 17), (16, 31), (16, 63)):
        wanted = cylinders * heads * per_track * 512
        tool("create", "-f", "vpc", "-o", "subformat=fixed", path, str(wanted))
        with path.open("rb") as file:
            file.seek(-FOOTER_BYTES, 2)
            theirs = parse_footer(file.read())
        assert geometry_of(theirs.current_size) == theirs.geometry


@pytest.mark.tools
def test_a_creator_that_qemu_does_not_know_costs_no_sectors(tmp_path: Path) -> None:
    """With a small geometry QEMU alone would cut the disk; our locator states the size."""
    size = 20 * MiB
    footer = Footer(DiskType.FIXED, size, size, geometry_of(size), NOW, ID, creator=b"abcd")
    path = tmp_path / "small.vhd"
    path.write_bytes(bytes(size - 512) + b"\xee" * 512 + footer.pack())
    bare = subprocess.run(
        ["qemu-img", "info", "-f", "vpc", str(path)], check=True, capture_output=True, text=True
    )
    assert f"({size} bytes)" not in bare.stdout
    assert qemu_img.info(Image(path, ImageFormat.VHD)).virtual_size_bytes == size


def test_the_largest_geometry_means_the_size_field() -> None:
    assert LARGEST_GEOMETRY.size_bytes == 65535 * 16 * 255 * 512
    assert parse_footer(fixed_footer(GiB, unique_id=ID, created=NOW)).geometry == LARGEST_GEOMETRY


@given(st.integers(1, 2**63 // 512 - 1))
def test_geometry_never_exceeds_the_disk_and_wastes_little(sectors: int) -> None:
    size = sectors * 512
    found = geometry_of(size)
    assert found.size_bytes <= size
    assert 0 <= found.cylinders <= 65535
    assert 4 <= found.heads <= 16
    assert found.sectors in (17, 31, 63, 255)
    if size <= LARGEST_GEOMETRY.size_bytes:
        assert size - found.size_bytes < found.heads * found.sectors * 512 + 17 * 512 * 16


footers = st.builds(
    Footer,
    disk_type=st.sampled_from(DiskType),
    current_size=st.integers(1, 2**62),
    original_size=st.integers(0, 2**64 - 1),
    geometry=st.builds(Geometry, st.integers(0, 65535), st.integers(0, 255), st.integers(0, 255)),
    created=st.integers(0, 2**32 - 1).map(
        lambda s: datetime(2000, 1, 1, tzinfo=UTC) + timedelta(seconds=s)
    ),
    unique_id=st.uuids(),
    creator=st.binary(min_size=4, max_size=4),
    creator_version=st.integers(0, 2**32 - 1),
    creator_host=st.binary(min_size=4, max_size=4),
    data_offset=st.integers(0, 2**64 - 1),
    features=st.integers(0, 2**32 - 1),
    saved_state=st.booleans(),
)


@given(footers)
def test_what_is_packed_is_parsed(footer: Footer) -> None:
    raw = footer.pack()
    assert len(raw) == FOOTER_BYTES
    assert parse_footer(raw) == footer


@given(footers, st.integers(0, 511), st.integers(1, 255))
def test_any_changed_byte_is_noticed(footer: Footer, at: int, change: int) -> None:
    raw = bytearray(footer.pack())
    raw[at] ^= change
    with pytest.raises(ImageError):
        parse_footer(bytes(raw))


@given(st.binary(max_size=600))
@settings(max_examples=300)
def test_noise_is_refused(noise: bytes) -> None:
    for raw in (noise, b"conectix" + noise, (b"conectix" + noise).ljust(512, b"\0")[:512]):
        with pytest.raises(ImageError):
            parse_footer(raw)


def resealed(raw: bytes, at: int, form: str, value: int) -> bytes:
    data = bytearray(raw)
    struct.pack_into(form, data, at, value)
    struct.pack_into(">I", data, 64, checksum(bytes(data)))
    return bytes(data)


@pytest.mark.parametrize(
    ("at", "form", "value", "words"),
    [
        (48, ">Q", 0, "virtual size"),
        (48, ">Q", 2**63, "virtual size"),
        (48, ">Q", 2**64 - 1, "virtual size"),
        (60, ">I", 0, "disk type"),
        (60, ">I", 5, "disk type"),
        (12, ">I", 0x00020000, "major version"),
    ],
)
def test_fields_out_of_bounds_are_named(at: int, form: str, value: int, words: str) -> None:
    good = fixed_footer(GiB, unique_id=ID, created=NOW)
    with pytest.raises(ImageError, match=words):
        parse_footer(resealed(good, at, form, value))


@pytest.mark.parametrize("size", [0, -512, 511, 513, 2**63])
def test_sizes_that_are_no_disk_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="sectors"):
        fixed_footer(size, unique_id=ID, created=NOW)


@pytest.mark.parametrize(
    "created", [datetime(1999, 12, 31, tzinfo=UTC), datetime(2136, 3, 1, tzinfo=UTC)]
)
def test_times_that_do_not_fit_are_refused(created: datetime) -> None:
    with pytest.raises(ValueError, match="out of range"):
        fixed_footer(GiB, unique_id=ID, created=created)


def test_the_same_input_gives_the_same_file() -> None:
    first = fixed_footer(GiB, unique_id=ID, created=NOW)
    assert first == fixed_footer(GiB, unique_id=ID, created=NOW)


def test_a_fixed_disk_is_told_from_a_raw_one() -> None:
    disk = bytes(MiB)
    whole = disk + fixed_footer(MiB, unique_id=ID, created=NOW)
    assert carries_fixed_disk(over(whole), len(whole))
    assert not carries_fixed_disk(over(disk), len(disk))
    forged = disk[:-512] + fixed_footer(MiB, unique_id=ID, created=NOW)
    assert not carries_fixed_disk(over(forged), len(forged))
    broken = disk + b"conectix" + bytes(504)
    assert not carries_fixed_disk(over(broken), len(broken))


def test_the_copy_at_the_start_decides_as_it_does_in_qemu() -> None:
    first = fixed_footer(GiB, unique_id=ID, created=NOW)
    last = fixed_footer(MiB, unique_id=ID, created=NOW)
    both = first + bytes(4096) + last
    found = find_footer(over(both), len(both))
    assert found is not None
    assert found.current_size == GiB


def test_azure_sizes_and_footers_fit_together() -> None:
    size = padded_size(4 * GiB + 1, Target.AZURE_GEN2)
    assert size == 4 * GiB + MiB
    assert parse_footer(fixed_footer(size, unique_id=ID, created=NOW)).current_size == size
