"""Every command of the wrapper against the tool, on every format and on nasty names."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from converters import qemu_img
from converters.formats import Container
from converters.image import Image, ImageFormat, absolute
from converters.process import Limits
from sealift.cancel import CancelToken
from sealift.errors import ImageError, StoppedError, ToolError, UsageError
from sealift.extents import Kind, checked_partition, coalesce
from sealift.units import GiB, KiB, MiB

pytestmark = pytest.mark.tools

ALL_FORMATS = list(ImageFormat)
Make = Callable[..., Image]
Tool = Callable[..., str]


@pytest.mark.parametrize("image_format", ALL_FORMATS)
def test_info_tells_format_and_size(image_of: Make, disk: bytes, image_format: ImageFormat) -> None:
    info = qemu_img.info(image_of(image_format))
    assert info.format is image_format
    assert info.virtual_size_bytes == len(disk)
    assert not info.encrypted
    assert not info.corrupt
    assert info.backing_file is info.data_file is None


@pytest.mark.parametrize("image_format", ALL_FORMATS)
def test_the_map_is_a_partition_and_its_zeroes_are_zeroes(
    image_of: Make, disk: bytes, image_format: ImageFormat
) -> None:
    extents = [e.extent for e in qemu_img.map_extents(image_of(image_format), len(disk))]
    list(checked_partition(extents, 0, len(disk)))
    for extent in extents:
        if extent.kind is Kind.ZERO:
            assert not any(disk[extent.start : extent.end])
    if image_format is ImageFormat.QCOW2:
        kinds = {extent.kind for extent in coalesce(extents)}
        assert kinds == {Kind.DATA, Kind.ZERO}


def test_windows_of_the_map_join_without_a_seam(
    image_of: Make, disk: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = image_of(ImageFormat.QCOW2)
    whole = list(coalesce(e.extent for e in qemu_img.map_extents(image, len(disk))))
    monkeypatch.setattr(qemu_img, "_WINDOW_BYTES", 1 * MiB + 512)
    pieces = list(coalesce(e.extent for e in qemu_img.map_extents(image, len(disk))))
    assert pieces == whole


def test_a_map_that_is_too_long_is_asked_in_smaller_windows(
    tmp_path: Path, tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fragmented.qcow2"
    tool("create", "-q", "-f", "qcow2", "-o", "cluster_size=4096", path, "4M")
    command = ["qemu-io", *(f"-cwrite -q {n * 8}K 4K" for n in range(512)), str(path)]
    subprocess.run(command, check=True, capture_output=True)
    monkeypatch.setattr(qemu_img, "_SMALLEST_WINDOW_BYTES", 64 * KiB)
    tight = Limits(output_bytes=16 * KiB)
    image = Image(path, ImageFormat.QCOW2)
    found = list(qemu_img.map_extents(image, 4 * MiB, limits=tight))
    list(checked_partition((e.extent for e in found), 0, 4 * MiB))
    assert sum(e.data for e in found) == 512


@pytest.mark.parametrize("image_format", ALL_FORMATS)
def test_check_finds_sound_images_sound(image_of: Make, image_format: ImageFormat) -> None:
    report = qemu_img.check(image_of(image_format))
    assert (report is None) != image_format.checkable
    assert report is None or (report.sound and report.leaks == 0)


def test_check_tells_corruptions_and_leaks_apart(image_of: Make) -> None:
    image = image_of(ImageFormat.QCOW2)
    data = bytearray(image.path.read_bytes())
    refcounts = int.from_bytes(data[48:56], "big")
    block = int.from_bytes(data[refcounts : refcounts + 8], "big")
    original = bytes(data)
    data[block + 10 : block + 12] = b"\0\0"  # a cluster in use counts as free
    image.path.write_bytes(data)
    broken = qemu_img.check(image)
    assert broken is not None
    assert broken.corruptions > 0
    assert not broken.sound
    data = bytearray(original) + bytes(64 * KiB)
    end = len(original) // (64 * KiB)
    data[block + 2 * end : block + 2 * end + 2] = b"\0\1"  # a cluster that nobody uses
    image.path.write_bytes(data)
    leaking = qemu_img.check(image)
    assert leaking is not None
    assert (leaking.leaks, leaking.sound) == (1, True)


def test_measure_is_enough_for_the_conversion(image_of: Make, tmp_path: Path) -> None:
    image = image_of(ImageFormat.RAW)
    found = qemu_img.measure(image, Container.QCOW2)
    target = tmp_path / "out.qcow2"
    qemu_img.convert(image, target, Container.QCOW2, limits=qemu_img.SCAN_AND_WRITE)
    assert target.stat().st_size <= found.required_bytes <= found.fully_allocated_bytes


def test_compare_says_equal_different_and_longer(
    image_of: Make, tmp_path: Path, disk: bytes
) -> None:
    raw = image_of(ImageFormat.RAW)
    seen: list[float] = []
    same = qemu_img.compare(raw, image_of(ImageFormat.VMDK), on_progress=seen.append)
    assert same == type(same)(identical=True, sizes_differ=False, first_difference=None)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0

    changed = bytearray(disk)
    changed[5 * MiB + 1000] ^= 1
    other = Image(tmp_path / "other.raw", ImageFormat.RAW)
    other.path.write_bytes(changed)
    differs = qemu_img.compare(raw, other)
    assert not differs.identical
    assert differs.first_difference is not None
    assert differs.first_difference <= 5 * MiB + 1000 < differs.first_difference + MiB

    other.path.write_bytes(disk + bytes(MiB))
    assert qemu_img.compare(raw, other) == type(same)(True, True, None)
    other.path.write_bytes(disk + bytes(MiB - 1) + b"x")
    assert not qemu_img.compare(raw, other).identical


def test_compare_with_something_unreadable_is_an_error_not_a_difference(
    image_of: Make, tmp_path: Path
) -> None:
    with pytest.raises(ImageError, match="nothing-there"):
        qemu_img.compare(
            image_of(ImageFormat.RAW), Image(tmp_path / "nothing-there", ImageFormat.RAW)
        )


def test_create_makes_what_was_asked(tmp_path: Path) -> None:
    for container in Container:
        if container is not Container.OVA:
            path = tmp_path / container.value
            qemu_img.create(path, container, 3 * MiB)
            info = qemu_img.info(Image(path, container.image_format))
            assert info.virtual_size_bytes == 3 * MiB


def test_create_where_it_cannot_be_is_a_tool_error(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="No such file"):
        qemu_img.create(tmp_path / "missing" / "x", Container.RAW, MiB)


def test_relative_paths_never_reach_the_tool() -> None:
    with pytest.raises(ValueError, match="not absolute"):
        qemu_img.create(Path("nbd:localhost:10809"), Container.RAW, MiB)
    with pytest.raises(ValueError, match="not absolute"):
        Image(Path("json:{}"), ImageFormat.RAW)


NASTY = [
    "-x",
    "--help",
    "-",
    'json:{"driver":"raw"}',
    "nbd:localhost:10809",
    "nbd+unix:,socket=x",
    "a,b,,c=d,file.driver=host_device",
    "new\nline",
    'quote"and\\slash',
    "per%cent %s %n",
    "{curly}",
    "sp ace\ttab",
    "snow \N{SNOWMAN} \N{GRINNING FACE}",
    "esc\x1b[31m",
    "backing=x",
    "0",
]


@pytest.mark.parametrize("name", NASTY)
def test_file_names_are_names_and_nothing_else(
    tmp_path: Path, disk: bytes, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(disk)
    source = Image.at(name, ImageFormat.RAW)
    assert qemu_img.info(source).virtual_size_bytes == len(disk)
    target = absolute(f"{name}.copy")
    qemu_img.convert(source, target, Container.QCOW2, limits=qemu_img.SCAN_AND_WRITE)
    copy = Image(target, ImageFormat.QCOW2)
    assert qemu_img.compare(source, copy).identical
    assert qemu_img.check(copy) is not None
    assert len(list(qemu_img.map_extents(source, len(disk)))) >= 1
    qemu_img.create(target, Container.VMDK, MiB)
    assert qemu_img.info(Image(target, ImageFormat.VMDK)).virtual_size_bytes == MiB
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, f"{name}.copy"])


def test_a_name_that_is_not_utf8_is_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not UTF-8") as caught:
        Image.at(tmp_path / "bad\udcff", ImageFormat.RAW)
    assert "rename" in caught.value.next_step
    with pytest.raises((UsageError, ValueError)):
        Image.at(f"{tmp_path}/nul\0", ImageFormat.RAW)


def test_errors_show_the_users_name_escaped(tmp_path: Path) -> None:
    with pytest.raises(ImageError) as caught:
        qemu_img.info(Image.at(tmp_path / "no\x1b[31m\nne", ImageFormat.QCOW2))
    assert "No such file" in caught.value.message
    assert "json:" not in caught.value.message
    assert caught.value.message.isprintable()


def test_an_image_in_use_is_named_so(tmp_path: Path, tool: Tool) -> None:
    path = tmp_path / "busy.qcow2"
    tool("create", "-q", "-f", "qcow2", path, "1M")
    holder = subprocess.Popen(
        ["qemu-io", str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    holder.stdin.write("length\n")
    holder.stdin.flush()
    holder.stdout.readline()
    try:
        with pytest.raises(ImageError, match="in use by another program"):
            qemu_img.info(Image(path, ImageFormat.QCOW2))
    finally:
        holder.communicate("quit\n", timeout=60)


def test_cancel_reaches_every_command(image_of: Make, tmp_path: Path) -> None:
    token = CancelToken()
    token.cancel("test")
    image = image_of(ImageFormat.QCOW2)
    calls: list[Callable[[], object]] = [
        lambda: qemu_img.info(image, cancel=token),
        lambda: list(qemu_img.map_extents(image, GiB, cancel=token)),
        lambda: qemu_img.measure(image, Container.RAW, cancel=token),
        lambda: qemu_img.check(image, cancel=token),
        lambda: qemu_img.compare(image, image, cancel=token),
    ]
    for call in calls:
        with pytest.raises(StoppedError):
            call()


def test_no_base_is_opened_that_was_not_given(tmp_path: Path, tool: Tool) -> None:
    base, top = tmp_path / "base.raw", tmp_path / "top.qcow2"
    base.write_bytes(b"secret!!" * 128 * 1024)
    tool("create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, top)
    alone = Image(top, ImageFormat.QCOW2)
    assert [e.zero for e in qemu_img.map_extents(alone, MiB)] == [True]
    given = Image(top, ImageFormat.QCOW2, Image(base, ImageFormat.RAW))
    assert qemu_img.compare(given, Image(base, ImageFormat.RAW)).identical
