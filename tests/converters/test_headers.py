"""Marks and headers: real ones are read, and no bytes make the parsers raise, loop or allocate."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from converters.bounded import over
from converters.headers import ReferenceKind, read_header
from converters.image import Image, ImageFormat
from converters.magic import claims
from converters.vhd import checksum
from sealift.errors import ImageError
from sealift.units import MiB

Make = Callable[..., Image]
Tool = Callable[..., str]
MARKED = [f for f in ImageFormat if f is not ImageFormat.RAW]


@pytest.mark.tools
@pytest.mark.parametrize("image_format", MARKED)
def test_real_images_claim_their_format_and_size(
    image_of: Make, disk: bytes, image_format: ImageFormat
) -> None:
    data = image_of(image_format).path.read_bytes()
    assert claims(over(data), len(data)).formats == (image_format,)
    header = read_header(image_format, over(data), len(data))
    assert header.virtual_size_bytes == len(disk)
    assert header.references == ()
    assert not header.encrypted


@pytest.mark.tools
@pytest.mark.parametrize(
    ("image_format", "option"),
    [
        (ImageFormat.VHD, "subformat=fixed"),
        (ImageFormat.VMDK, "subformat=streamOptimized"),
        (ImageFormat.VMDK, "subformat=monolithicFlat"),
        (ImageFormat.VMDK, "subformat=twoGbMaxExtentSparse"),
        (ImageFormat.QCOW2, "compat=0.10"),
        (ImageFormat.VDI, "static=on"),
        (ImageFormat.VHDX, "subformat=fixed"),
    ],
)
def test_variants_are_known_too(
    image_of: Make, disk: bytes, image_format: ImageFormat, option: str
) -> None:
    extra = ["force_size=on"] if image_format is ImageFormat.VHD else []
    data = image_of(image_format, option, *extra).path.read_bytes()
    assert claims(over(data), len(data)).formats == (image_format,)
    header = read_header(image_format, over(data), len(data))
    assert header.virtual_size_bytes == len(disk)
    parts = [r for r in header.references if r.kind is ReferenceKind.EXTENT]
    assert len(parts) == ("Flat" in option or "Extent" in option)
    assert len(header.references) == len(parts)


@pytest.mark.tools
def test_a_raw_disk_claims_nothing(disk: bytes) -> None:
    found = claims(over(disk), len(disk))
    assert (found.formats, found.foreign) == ((), None)
    assert read_header(ImageFormat.RAW, over(disk), len(disk)).virtual_size_bytes == len(disk)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\x1f\x8b\x08rest", "gzip"),
        (b"LUKS\xba\xbe\0\1", "LUKS"),
        (bytes(257) + b"ustar\0" + bytes(300), "OVA"),
        (bytes(32769) + b"CD001", "ISO"),
        (bytes(512) + b"koly" + bytes(508), "Apple"),
    ],
)
def test_foreign_files_are_named(data: bytes, name: str) -> None:
    found = claims(over(data), len(data))
    assert found.formats == ()
    assert found.foreign is not None
    assert name in found.foreign


@pytest.mark.tools
@pytest.mark.parametrize("image_format", MARKED)
def test_a_wrong_format_is_refused_by_every_reader(
    image_of: Make, image_format: ImageFormat
) -> None:
    data = image_of(image_format).path.read_bytes()
    for other in MARKED:
        if other is not image_format:
            with pytest.raises(ImageError, match="not a"):
                read_header(other, over(data), len(data))


@pytest.mark.tools
@pytest.mark.parametrize("image_format", MARKED)
def test_cut_off_images_are_refused_or_say_the_same(
    image_of: Make, image_format: ImageFormat
) -> None:
    data = image_of(image_format).path.read_bytes()
    whole = read_header(image_format, over(data), len(data))
    for length in [*range(0, 600, 7), 1024, 4096, 65536, 200_000, len(data) - 1]:
        cut = data[:length]
        try:
            found = read_header(image_format, over(cut), len(cut))
        except ImageError:
            continue
        assert found.virtual_size_bytes == whole.virtual_size_bytes


@pytest.mark.tools
@pytest.mark.parametrize(
    ("image_format", "stated"), [("qcow2", "raw"), ("qcow2", None), ("qcow", None), ("qed", None)]
)
def test_backing_files_are_found_with_their_format(
    tmp_path: Path, tool: Tool, raw_file: Path, image_format: str, stated: str | None
) -> None:
    path = tmp_path / "overlay"
    tool("create", "-q", "-f", image_format, "-F", "raw", "-b", raw_file, path)
    data = path.read_bytes()
    if image_format == "qcow2" and stated is None:
        data = without_extensions(data)
    if image_format == "qed":
        stated = "raw"
    (found,) = read_header(ImageFormat(image_format), over(data), len(data)).references
    assert (found.kind, found.name) == (ReferenceKind.BACKING, str(raw_file))
    assert found.format == stated


def without_extensions(data: bytes) -> bytes:
    length = int.from_bytes(data[100:104], "big")
    return data[:length] + bytes(8) + data[length + 8 :]


@pytest.mark.tools
def test_external_data_files_are_found(tmp_path: Path, tool: Tool) -> None:
    path, data_file = tmp_path / "meta.qcow2", tmp_path / "elsewhere.raw"
    tool("create", "-q", "-f", "qcow2", "-o", f"data_file={data_file}", path, "1M")
    data = path.read_bytes()
    (found,) = read_header(ImageFormat.QCOW2, over(data), len(data)).references
    assert (found.kind, found.name) == (ReferenceKind.DATA_FILE, str(data_file))


@pytest.mark.tools
def test_vmdk_parents_are_found(tmp_path: Path, image_of: Make, tool: Tool) -> None:
    base, top = image_of(ImageFormat.VMDK), tmp_path / "top.vmdk"
    tool("create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", base.path, top)
    data = top.read_bytes()
    (found,) = read_header(ImageFormat.VMDK, over(data), len(data)).references
    assert found.kind is ReferenceKind.BACKING
    assert found.name == str(base.path)


DESCRIPTOR = b'# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="custom"\n'


@pytest.mark.parametrize(
    "line",
    [
        b'RW 2048 FLAT "/etc/shadow" 0\n',
        b'  RW\t2048   FLAT\t"/etc/shadow"\n',
        b'RW\n2048\nFLAT\n"/etc/shadow" 0\n',
        b'RDONLY 2048 FLAT "/etc/shadow" 0\r\n',
        b'rw +2048 flat "/etc/shadow" 0',
        b'RW 99999999999999999999 VMFS "/etc/shadow"\n',
        b'RW 2048 VMFS "/etc/shadow\n" 0\n',
        b'RW 2048FLAT "/etc/shadow" 0\n',
    ],
)
def test_extent_lines_are_seen_however_they_are_written(line: bytes) -> None:
    data = DESCRIPTOR + line
    (found,) = read_header(ImageFormat.VMDK, over(data), len(data)).references
    assert (found.kind, found.name) == (ReferenceKind.EXTENT, "/etc/shadow")


@pytest.mark.parametrize(
    "line",
    [
        b'parentFileNameHint="/etc/shadow"\n',
        b"PARENTFILENAMEHINT = /etc/shadow\n",
        b'parentFileNameHint=\n/etc/shadow"',
        b'x = "y" parentFileNameHint="/etc/shadow"\n',
    ],
)
def test_parent_hints_are_seen(line: bytes) -> None:
    data = DESCRIPTOR + line
    (found,) = read_header(ImageFormat.VMDK, over(data), len(data)).references
    assert (found.kind, found.name) == (ReferenceKind.BACKING, "/etc/shadow")


@pytest.mark.parametrize(
    "piece",
    [b"\n", b" ", b"a", b"a ", b"\r\n", b'a "', b"RW 1 ", b"parentCID", b"parentFileNameHint="],
)
def test_a_megabyte_of_anything_is_read_at_once(piece: bytes) -> None:
    data = DESCRIPTOR + piece * (MiB // len(piece))
    read = CountingRead(data)
    header = read_header(ImageFormat.VMDK, read, len(data))
    assert read.total <= 2 * MiB
    assert len({reference.kind for reference in header.references}) <= 1


def test_a_parent_without_a_name_is_a_reference_too() -> None:
    data = DESCRIPTOR.replace(b"ffffffff", b"1234abcd")
    (found,) = read_header(ImageFormat.VMDK, over(data), len(data)).references
    assert found.kind is ReferenceKind.PARENT


def sparse_vmdk(capacity: int, descriptor_sector: int, descriptor: bytes) -> bytes:
    head = struct.pack("<4sIIQQQQ", b"KDMV", 1, 3, capacity, 128, descriptor_sector, 20)
    return head.ljust(descriptor_sector * 512, b"\0") + descriptor.ljust(20 * 512, b"\0")


def test_a_descriptor_in_disguise_is_a_descriptor() -> None:
    line = b'RW 2048 FLAT "/etc/shadow" 0\n'
    for sector in (1, 7, 5000):
        data = sparse_vmdk(0, sector, DESCRIPTOR + line)
        (found,) = read_header(ImageFormat.VMDK, over(data), len(data)).references
        assert found.name == "/etc/shadow"


def test_a_parent_hint_hides_in_neither_place() -> None:
    data = sparse_vmdk(2048, 9, DESCRIPTOR + b'parentFileNameHint="/etc/shadow"\n')
    assert read_header(ImageFormat.VMDK, over(data), len(data)).references
    fixed = bytearray(sparse_vmdk(2048, 40, DESCRIPTOR))
    hint = DESCRIPTOR + b'parentFileNameHint="/etc/shadow"\n'
    fixed[0x200 : 0x200 + len(hint)] = hint
    assert read_header(ImageFormat.VMDK, over(bytes(fixed)), len(fixed)).references


def test_a_bare_redo_log_is_refused() -> None:
    data = b"COWD" + bytes(2000)
    with pytest.raises(ImageError, match="redo log"):
        read_header(ImageFormat.VMDK, over(data), len(data))


def patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


@pytest.mark.tools
def test_differencing_disks_are_found(image_of: Make) -> None:
    vdi = patched(image_of(ImageFormat.VDI).path.read_bytes(), 0x1B8, b"\x11" * 16)
    assert read_header(ImageFormat.VDI, over(vdi), len(vdi)).references
    kind = patched(image_of(ImageFormat.VDI).path.read_bytes(), 0x4C, b"\4\0\0\0")
    assert read_header(ImageFormat.VDI, over(kind), len(kind)).references

    vhdx = image_of(ImageFormat.VHDX).path.read_bytes()
    item = bytes.fromhex("3767a1ca36fa434db3b633f0aa44e76b")
    at = vhdx.index(item)
    table = at - at % (64 * 1024)
    offset = table + int.from_bytes(vhdx[at + 16 : at + 20], "little")
    vhdx = patched(vhdx, offset + 4, b"\2\0\0\0")
    (found,) = read_header(ImageFormat.VHDX, over(vhdx), len(vhdx)).references
    assert found.kind is ReferenceKind.PARENT


@pytest.mark.tools
def test_a_differencing_vhd_names_its_parent(image_of: Make) -> None:
    data = bytearray(image_of(ImageFormat.VHD).path.read_bytes())
    struct.pack_into(">I", data, 60, 4)
    struct.pack_into(">I", data, 64, checksum(bytes(data[:512])))
    at = int.from_bytes(data[16:24], "big") + 64
    name = "C:\\base.vhd".encode("utf-16-be")
    data[at : at + len(name)] = name
    (found,) = read_header(ImageFormat.VHD, over(bytes(data)), len(data)).references
    assert (found.kind, found.name) == (ReferenceKind.PARENT, "C:\\base.vhd")


class CountingRead:
    """Fails the test when a parser asks for more than a bound, in one call or in all."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.total = 0

    def __call__(self, offset: int, length: int) -> bytes:
        assert length <= 3 * MiB
        self.total += max(length, 0)
        assert self.total <= 16 * MiB
        return over(self.data)(offset, length)


@given(st.sampled_from(MARKED), st.binary(max_size=2000))
@settings(max_examples=500)
def test_noise_behind_a_mark_is_handled(image_format: ImageFormat, noise: bytes) -> None:
    marks = (b"", b"QFI\xfb\0\0\0\3", b"QFI\xfb\0\0\0\1", b"QED\0", b"KDMV", b"vhdxfile")
    more = (b"# Disk DescriptorFile\n", b"WithoutFreeSpace", b"conectix", b"COWD")
    for mark in (*marks, *more):
        data = mark + noise
        claims(CountingRead(data), len(data))
        try:
            header = read_header(image_format, CountingRead(data), len(data))
        except ImageError:
            continue
        assert header.virtual_size_bytes is None or 0 <= header.virtual_size_bytes < 2**63


@pytest.mark.tools
@given(
    st.sampled_from(MARKED),
    st.lists(st.tuples(st.integers(0, 1 << 18), st.binary(min_size=1, max_size=8)), max_size=6),
)
@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_damaged_headers_never_crash_a_parser(
    headers: dict[ImageFormat, bytes],
    image_format: ImageFormat,
    changes: list[tuple[int, bytes]],
) -> None:
    data = bytearray(headers[image_format])
    for at, value in changes:
        # Most fields are near the start of the header or of VHDX's metadata at 2 MiB.
        spot = at % 512 if at % 2 else at % len(data)
        data[spot : spot + len(value)] = value
    read = CountingRead(bytes(data))
    try:
        header = read_header(image_format, read, len(data))
    except ImageError as error:
        assert error.message  # noqa: PT017
    else:
        size = header.virtual_size_bytes
        assert size is None or 0 <= size < 2**63
        assert all(len(reference.name) <= MiB for reference in header.references)


@pytest.fixture
def headers(image_of: Make) -> dict[ImageFormat, bytes]:
    return {f: image_of(f).path.read_bytes()[: 4 * MiB] for f in MARKED}


EXTREMES = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]


@pytest.mark.tools
@pytest.mark.parametrize("image_format", MARKED)
def test_extreme_numbers_in_every_field(image_of: Make, image_format: ImageFormat) -> None:
    data = image_of(image_format).path.read_bytes()
    order = ">" if image_format in (ImageFormat.QCOW2, ImageFormat.QCOW, ImageFormat.VHD) else "<"
    for at in range(0, 0x1D0, 4):
        for value in EXTREMES:
            form = f"{order}Q" if value >= 2**32 else f"{order}I"
            changed = patched(data, at, struct.pack(form, value))
            try:
                header = read_header(image_format, CountingRead(changed), len(changed))
            except ImageError:
                continue
            assert header.virtual_size_bytes is None or header.virtual_size_bytes < 2**63
