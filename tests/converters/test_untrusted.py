"""Images made to harm: nothing that they refer to is opened, and the refusal says what to do."""

import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters import qemu_img
from converters.image import Image, ImageFormat
from converters.magic import Claims
from converters.process import Limits
from converters.untrusted import decide, inspect
from converters.vhd import fixed_footer, parse_footer
from sealift.errors import ImageError, ToolError
from sealift.units import GiB, KiB, MiB, TiB

pytestmark = pytest.mark.tools

Make = Callable[..., Image]
Tool = Callable[..., str]
F = ImageFormat

PASSWD = "/etc/passwd"
NAMES = [
    PASSWD,
    "../../../etc/passwd",
    "json:{}",
    'json:{"driver":"file","filename":"/etc/passwd"}',
    "nbd://127.0.0.1:10809/x",
    "fat:/etc",
    "https://127.0.0.1/x",
    "host_device:/dev/sda",
    "\x1b[2Jgone",
    "a\nb",
    "-x",
    "x" * 1023,
]


def qcow2(
    *, backing: str = "", backing_format: str = "", size: int = MiB, version: int = 3, **extra: int
) -> bytes:
    """A qcow2 header made by hand, with empty tables behind it."""
    return qcow2_with(extra, backing, backing_format, size, version)


def qcow2_with(
    extra: dict[str, int],
    backing: str = "",
    backing_format: str = "",
    size: int = GiB,
    version: int = 3,
) -> bytes:
    name = backing.encode()
    extensions = b""
    if backing_format:
        coded = backing_format.encode()
        extensions = struct.pack(">II", 0xE2792ACA, len(coded)) + coded.ljust(8, b"\0")
    start = 104 if version == 3 else 72
    name_at = start + len(extensions) + 8 if name else 0
    head = struct.pack(
        ">4sIQIIQIIQQIIQ",
        b"QFI\xfb",
        version,
        name_at,
        len(name),
        extra.get("cluster_bits", 16),
        size,
        extra.get("crypt", 0),
        extra.get("l1_size", 1),
        extra.get("l1_at", 3 * 64 * KiB),
        64 * KiB,
        1,
        extra.get("snapshots", 0),
        0,
    )
    if version == 3:
        head += struct.pack(">QQQII", extra.get("incompatible", 0), 0, 0, 4, 104)
    body = head + extensions + bytes(8) + name
    data = bytearray(body.ljust(4 * 64 * KiB, b"\0"))
    struct.pack_into(">Q", data, 64 * KiB, 2 * 64 * KiB)  # refcount table
    for cluster in range(4):
        struct.pack_into(">H", data, 2 * 64 * KiB + 2 * cluster, 1)
    return bytes(data)


@pytest.fixture
def image(tmp_path: Path) -> Callable[[bytes, str], Path]:
    def write(data: bytes, name: str = "hostile.img") -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


Write = Callable[..., Path]


def test_the_handmade_header_is_good_but_for_what_a_test_adds(image: Write) -> None:
    facts = inspect(image(qcow2()), F.QCOW2)
    assert facts.virtual_size_bytes == MiB
    assert facts.caveats == ()
    assert qemu_img.check(facts.image) is not None


@pytest.mark.fault(50)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("version", [2, 3])
def test_backing_files_are_refused(image: Write, name: str, version: int) -> None:
    path = image(qcow2(backing=name, version=version))
    with pytest.raises(ImageError, match="backing file") as caught:
        inspect(path)
    assert str(path) in caught.value.message
    assert caught.value.message.isprintable()
    assert "merge it" in caught.value.next_step
    assert "allow" in caught.value.next_step
    assert caught.value.exit_code == 22
    if name == PASSWD:
        assert PASSWD in caught.value.message


@pytest.mark.parametrize("name", NAMES)
def test_allowing_one_base_allows_no_other(image: Write, raw_file: Path, name: str) -> None:
    path = image(qcow2(backing=name, backing_format="raw"))
    with pytest.raises(ImageError, match="backing file"):
        inspect(path, F.QCOW2, allow_backing=[raw_file])


def test_a_protocol_is_refused_even_when_a_file_is_called_like_it(
    image: Write, tmp_path: Path
) -> None:
    base = tmp_path / "nbd:x"
    base.write_bytes(bytes(MiB))
    path = image(qcow2(backing="nbd:x", backing_format="raw"))
    with pytest.raises(ImageError, match="not a plain path"):
        inspect(path, F.QCOW2, allow_backing=[base])


@pytest.mark.fault(50)
def test_an_external_data_file_is_refused(image: Write) -> None:
    with pytest.raises(ImageError, match="external data file") as caught:
        inspect(image(qcow2(incompatible=4)), F.QCOW2)
    assert "qemu-img convert" in caught.value.next_step


def test_a_real_data_file_is_refused_by_name(tmp_path: Path, tool: Tool) -> None:
    path, elsewhere = tmp_path / "x.qcow2", tmp_path / "elsewhere"
    tool("create", "-q", "-f", "qcow2", "-o", f"data_file={elsewhere}", path, "1M")
    with pytest.raises(ImageError, match=re.escape(str(elsewhere))):
        inspect(path)


@pytest.mark.fault(50)
@pytest.mark.parametrize("size", [2**63 - 1, 2**63, 2**64 - 1, 65 * TiB])
def test_endless_disks_are_refused(image: Write, size: int) -> None:
    with pytest.raises(ImageError, match=r"claims a disk|virtual size"):
        inspect(image(qcow2(size=size)), F.QCOW2)


def test_the_largest_disk_is_the_callers_choice(image: Write) -> None:
    path = image(qcow2(size=2 * MiB))
    assert inspect(path, F.QCOW2, max_virtual_bytes=2 * MiB).virtual_size_bytes == 2 * MiB
    with pytest.raises(ImageError, match=r"2\.0 MiB, more than the 1\.0 MiB"):
        inspect(path, F.QCOW2, max_virtual_bytes=MiB)


def test_raw_files_have_the_limit_too(tmp_path: Path) -> None:
    path = tmp_path / "big.raw"
    with path.open("wb") as file:
        file.truncate(3 * GiB)
    with pytest.raises(ImageError, match="claims a disk"):
        inspect(path, F.RAW, max_virtual_bytes=GiB)


@pytest.mark.fault(50)
@pytest.mark.parametrize(
    "fields",
    [
        {"l1_size": 2**32 - 1},
        {"cluster_bits": 63},
        {"cluster_bits": 0},
        {"l1_at": 2**63},
        {"l1_size": 0},
        {"snapshots": 2**32 - 1},
        {"incompatible": 1 << 40},
    ],
)
def test_absurd_tables_are_refused_quickly(image: Write, fields: dict[str, int]) -> None:
    path = image(qcow2_with(fields))
    with pytest.raises(ImageError):
        inspect(path, F.QCOW2)


@pytest.mark.fault(50)
def test_a_cyclic_l1_table_ends_and_is_found_by_check(image: Write) -> None:
    data = bytearray(qcow2())
    struct.pack_into(">Q", data, 3 * 64 * KiB, 3 * 64 * KiB | 1 << 63)
    facts = inspect(image(bytes(data)), F.QCOW2)
    report = qemu_img.check(facts.image)
    assert report is not None
    assert not report.sound


def test_encrypted_images_are_said_to_be(image: Write) -> None:
    for method in (1, 2):
        with pytest.raises(ImageError, match="encrypted"):
            inspect(image(qcow2(crypt=method)), F.QCOW2)


def test_images_that_qemu_marked_corrupt_are_refused(image: Write) -> None:
    with pytest.raises(ImageError, match="marked as corrupt"):
        inspect(image(qcow2(incompatible=2)), F.QCOW2)


@pytest.mark.parametrize("length", [0, 1, 4, 71, 72, 103, 600, 64 * KiB])
def test_cut_off_images_are_refused(image: Write, length: int) -> None:
    with pytest.raises(ImageError):
        inspect(image(qcow2(backing=PASSWD)[:length]), F.QCOW2)


DESCRIPTOR = (
    "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n"
    'createType="monolithicFlat"\n\n{line}\n\nddb.adapterType = "ide"\n'
)


@pytest.mark.fault(50)
@pytest.mark.parametrize(
    "line",
    [
        'RW 2048 FLAT "/etc/passwd" 0',
        'RW 2048 FLAT "../../../../etc/passwd" 0',
        'RW 2048 FLAT "json:{}" 0',
        'RW 2048 FLAT "nbd:127.0.0.1:1" 0',
        'RW 2048 FLAT "other.raw" 0',
        'RW 2048 FLAT "hostile-../../x.vmdk" 0',
        'RW 2048 FLAT "hostile-flat.vmdk" 0\nRW 2048 FLAT "/etc/passwd" 0',
        'RW 2048 FLAT "hostile-link.vmdk" 0',
        'RW 2048 FLAT "hostile-missing.vmdk" 0',
        'RW 2048 FLAT "hostile-pipe.vmdk" 0',
        'RW 2048 SPARSE "hostile-disguise.vmdk"',
        'parentFileNameHint="/etc/passwd"',
    ],
)
def test_vmdks_may_only_consist_of_their_own_parts(image: Write, tmp_path: Path, line: str) -> None:
    (tmp_path / "hostile-flat.vmdk").write_bytes(bytes(MiB))
    (tmp_path / "other.raw").write_bytes(bytes(MiB))
    (tmp_path / "hostile-link.vmdk").symlink_to(PASSWD)
    os.mkfifo(tmp_path / "hostile-pipe.vmdk")
    disguise = struct.pack("<4sIIQQQQ", b"KDMV", 1, 3, 0, 128, 1, 20).ljust(512, b"\0")
    inner = DESCRIPTOR.format(line='RW 2048 FLAT "/etc/passwd" 0').encode()
    (tmp_path / "hostile-disguise.vmdk").write_bytes(disguise + inner.ljust(64 * KiB, b"\0"))
    path = image(DESCRIPTOR.format(line=line).encode(), "hostile.vmdk")
    with pytest.raises(ImageError, match=r"extent file|backing file") as caught:
        inspect(path)
    assert str(path) in caught.value.message


def test_a_vmdk_in_parts_of_its_own_name_is_read(image_of: Make, disk: bytes) -> None:
    for option in ("subformat=monolithicFlat", "subformat=twoGbMaxExtentSparse"):
        facts = inspect(image_of(F.VMDK, option, name="parts.vmdk").path)
        assert facts.virtual_size_bytes == len(disk)
        assert [part.name[:6] for part in facts.extents] == ["parts-"]


def test_parts_are_looked_for_beside_the_file_not_in_the_working_directory(
    image_of: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_of(F.VMDK, "subformat=monolithicFlat", name="parts.vmdk")
    monkeypatch.chdir("/")
    assert inspect(tmp_path / "parts.vmdk").extents == (tmp_path / "parts-flat.vmdk",)


def test_differencing_disks_are_refused(image_of: Make) -> None:
    vdi = image_of(F.VDI)
    data = bytearray(vdi.path.read_bytes())
    data[0x4C] = 4
    vdi.path.write_bytes(data)
    with pytest.raises(ImageError, match="parent disk") as caught:
        inspect(vdi.path)
    assert "merge the differencing disk" in caught.value.next_step


@pytest.mark.fault(50)
def test_a_raw_disk_with_a_forged_header_is_read_as_what_was_stated(image: Write) -> None:
    path = image(qcow2(backing=PASSWD), "guest.raw")
    facts = inspect(path, F.RAW)
    assert facts.image.format is F.RAW
    assert facts.virtual_size_bytes == path.stat().st_size
    assert facts.looks_like == (F.QCOW2,)
    assert facts.caveats == ("read as raw, as stated, though it looks like qcow2",)


def test_a_raw_disk_is_never_guessed(raw_file: Path, image: Write) -> None:
    with pytest.raises(ImageError, match="mark of no image format") as caught:
        inspect(raw_file)
    assert "state the format raw" in caught.value.next_step
    with pytest.raises(ImageError, match="a raw disk can be made to look"):
        inspect(image(qcow2(), "guest.raw"))
    with pytest.raises(ImageError, match="looks like a gzip file"):
        inspect(image(b"\x1f\x8b\x08" + bytes(600), "disk.gz"))


def test_a_fixed_vhd_is_not_taken_for_raw(tmp_path: Path, raw_file: Path, disk: bytes) -> None:
    footer = fixed_footer(len(disk), unique_id=uuid4(), created=datetime(2026, 1, 1, tzinfo=UTC))
    path = tmp_path / "fixed.img"
    path.write_bytes(disk + footer)
    facts = inspect(path)
    assert facts.image.format is F.VHD
    assert facts.virtual_size_bytes == len(disk)
    stated = inspect(path, F.RAW)
    assert stated.virtual_size_bytes == len(disk) + 512
    assert stated.looks_like == (F.VHD,)
    lie = replace(parse_footer(footer), current_size=2 * len(disk))
    path.write_bytes(disk + lie.pack())
    with pytest.raises(ImageError, match="cut off"):
        inspect(path)


@pytest.mark.parametrize("wrong", [f for f in ImageFormat if f not in (F.RAW, F.QCOW2)])
def test_a_stated_format_without_its_mark_is_refused(image: Write, wrong: ImageFormat) -> None:
    with pytest.raises(ImageError, match=r"is not a .* image; it looks like qcow2"):
        inspect(image(qcow2()), wrong)


formats = st.sampled_from(ImageFormat)


@given(
    st.none() | formats,
    st.lists(formats.filter(lambda f: f is not F.RAW), max_size=3, unique=True),
    st.booleans(),
    st.sampled_from(["disk", "disk.raw", "disk.DD", "disk.img", "disk.qcow2"]),
)
def test_the_decision_never_contradicts_the_user_nor_guesses_raw(
    stated: ImageFormat | None, marks: list[ImageFormat], is_device: bool, name: str
) -> None:
    try:
        chosen = decide(Path("/x") / name, stated, Claims(tuple(marks), None), is_device=is_device)
    except ImageError:
        assert stated is not F.RAW
        assert stated is None or stated not in marks
        return
    if stated is not None:
        assert chosen is stated
    else:
        assert marks == [chosen]
        assert not is_device
        assert chosen is not F.RAW


def test_things_that_are_no_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/null"), Path("/dev/zero")):
        with pytest.raises(ImageError, match="neither a file nor a block device"):
            inspect(path, F.RAW)
    with pytest.raises(ImageError, match="No such file"):
        inspect(tmp_path / "missing", F.RAW)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(ImageError, match="symbolic links"):
        inspect(loop, F.RAW)


def test_allowed_chains_are_followed_one_by_one(tmp_path: Path, tool: Tool, raw_file: Path) -> None:
    middle, top = tmp_path / "middle.qcow2", tmp_path / "top.qcow2"
    tool("create", "-q", "-f", "qcow2", "-F", "raw", "-b", raw_file, middle)
    tool("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", middle.name, top)
    with pytest.raises(ImageError, match=r"middle\.qcow2 refers"):
        inspect(top, allow_backing=[middle])
    facts = inspect(top, allow_backing=[raw_file, middle])
    assert facts.image == Image(top, F.QCOW2, Image(middle, F.QCOW2, Image(raw_file, F.RAW)))
    assert qemu_img.compare(facts.image, Image(raw_file, F.RAW)).identical


def test_an_image_that_is_its_own_base_is_refused(image: Write) -> None:
    path = image(qcow2(backing="self.qcow2", backing_format="qcow2"), "self.qcow2")
    with pytest.raises(ImageError, match="backing file"):
        inspect(path, allow_backing=[path])


def test_a_base_without_a_stated_format_needs_one_from_the_user(
    image: Write, raw_file: Path
) -> None:
    path = image(qcow2(backing=str(raw_file), size=8 * MiB))
    with pytest.raises(ImageError, match="mark of no image format"):
        inspect(path, allow_backing=[raw_file])
    facts = inspect(path, allow_backing=[Image(raw_file, F.RAW)])
    assert facts.image.backing == Image(raw_file, F.RAW)


def test_a_stated_format_of_the_base_that_is_a_protocol_is_refused(
    image: Write, raw_file: Path
) -> None:
    path = image(qcow2(backing=str(raw_file), backing_format="nbd"))
    with pytest.raises(ImageError, match="in the format nbd"):
        inspect(path, allow_backing=[raw_file])


def test_what_a_conversion_loses_is_a_caveat(image_of: Make, tool: Tool) -> None:
    made = image_of(F.QCOW2)
    tool("snapshot", "-c", "before", made.path)
    tool("bitmap", "--add", made.path, "b0")
    facts = inspect(made.path)
    assert facts.snapshots == ("before",)
    assert facts.bitmaps == ("b0",)
    assert len(facts.caveats) == 2


@pytest.mark.fault(50)
def test_the_tools_limits_apply(
    image: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = image(qcow2())
    with pytest.raises(ImageError, match="cannot be read"):
        inspect(path, limits=Limits(timeout_seconds=30, address_space_bytes=16 * MiB))
    slow = tmp_path / "bin" / "qemu-img"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\nexec sleep 600\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
    with pytest.raises(ToolError, match="took longer"):
        inspect(path, limits=Limits(timeout_seconds=0.2))


_INSPECT = """
import sys
from converters.untrusted import inspect
from converters.image import ImageFormat
from sealift.errors import ImageError
for path in sys.argv[1:]:
    for stated in (None, *ImageFormat):
        try:
            inspect(path, stated)
        except ImageError:
            pass
"""


@pytest.mark.fault(50)
def test_nothing_that_an_image_refers_to_is_opened(image: Write, tmp_path: Path) -> None:
    """The proof by system calls: every name in the corpus, every format, one canary."""
    canary = tmp_path / "canary" / "secret"
    canary.parent.mkdir()
    canary.write_bytes(b"do not read me")
    line = f'RW 2048 FLAT "{canary}" 0'
    corpus = [
        image(qcow2(backing=str(canary), backing_format="raw"), "a.img"),
        image(qcow2(backing=f'json:{{"driver":"file","filename":"{canary}"}}'), "b.img"),
        image(qcow2(backing="canary/secret", version=2), "c.img"),
        image(DESCRIPTOR.format(line=line).encode(), "d.img"),
        image(DESCRIPTOR.format(line=f'parentFileNameHint="{canary}"').encode(), "e.img"),
    ]
    made = tmp_path / "f.img"
    option = f"data_file={canary.parent}/data"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-o", option, str(made), "1M"], check=True
    )
    trace = tmp_path / "trace"
    calls = "trace=%file,connect"
    command = [sys.executable, "-c", _INSPECT, *map(str, [*corpus, made])]
    subprocess.run(
        ["strace", "-f", "-qq", "-s", "4096", "-e", calls, "-o", str(trace), *command], check=True
    )
    seen = trace.read_text(errors="replace").splitlines()
    opened = [call for call in seen if re.search(r"\b(open|openat|openat2|connect)\(", call)]
    assert any('a.img"' in call for call in opened)
    assert not [call for call in opened if "canary" in call]
