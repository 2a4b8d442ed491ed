"""Image files as weapons: none of them makes us read another file."""

import struct
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from connectors.local import QemuNbdServer, open_image_reader
from converters.image import Image, ImageFormat
from sealift.errors import ImageError
from sealift.testing.contracts import pattern, read
from sealift.units import MiB

pytestmark = pytest.mark.tools

SECRET = b"root:x:0:0:SECRET"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(SECRET.ljust(MiB, b"\n"))
    return path


def qemu_img(*arguments: str | Path) -> None:
    subprocess.run(["qemu-img", *arguments], check=True, stdout=subprocess.DEVNULL)


def overlay(image_format: ImageFormat, folder: Path, secret: Path) -> Path:
    path = folder / "overlay"
    if image_format is ImageFormat.QCOW2:
        qemu_img("create", "-q", "-f", "qcow2", "-F", "raw", "-b", secret, path)
    else:
        base = folder / "base"
        qemu_img("create", "-q", "-f", "vmdk", base, "1M")
        qemu_img("create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", base, path)
    return path


def refused(path: Path, image_format: ImageFormat) -> str:
    with pytest.raises(ImageError) as caught:
        open_image_reader(path, image_format)
    assert SECRET.decode() not in str(caught.value)
    assert str(path) in caught.value.message
    return caught.value.message


@pytest.mark.fault(50)
@pytest.mark.parametrize("image_format", [ImageFormat.QCOW2, ImageFormat.VMDK])
def test_a_backing_file_is_refused(image_format: ImageFormat, tmp_path: Path, secret: Path) -> None:
    message = refused(overlay(image_format, tmp_path, secret), image_format)
    assert "backing" in message or "parent" in message


def test_a_backing_file_that_the_caller_wants_is_opened(tmp_path: Path, secret: Path) -> None:
    path = overlay(ImageFormat.QCOW2, tmp_path, secret)
    base = Image.at(secret, ImageFormat.RAW)
    with closing(open_image_reader(path, ImageFormat.QCOW2, backing=base)) as reader:
        assert read(reader, 0, len(SECRET)) == SECRET


@pytest.mark.fault(50)
def test_qemu_does_not_open_a_backing_file_that_slipped_by(tmp_path: Path, secret: Path) -> None:
    """The second lock: even past the check, QEMU is told that there is none."""
    image = Image.at(overlay(ImageFormat.QCOW2, tmp_path, secret), ImageFormat.QCOW2)
    assert '"backing": null' in image.locator()


def test_an_external_data_file_is_refused(tmp_path: Path, secret: Path) -> None:
    path = tmp_path / "image"
    qemu_img(
        "create", "-q", "-f", "qcow2", "-o", f"data_file={secret},data_file_raw=on", path, "1M"
    )
    assert "data file" in refused(path, ImageFormat.QCOW2)


@pytest.mark.parametrize("text", ['RW 2048 FLAT "{secret}" 0', 'RW 2048 SPARSE "{secret}"', ""])
def test_a_vmdk_descriptor_is_refused(text: str, tmp_path: Path, secret: Path) -> None:
    path = tmp_path / "image.vmdk"
    head = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n"
    path.write_text(head + 'createType="monolithicFlat"\n' + text.format(secret=secret) + "\n")
    message = refused(path, ImageFormat.VMDK)
    assert "extent file" in message or not text


@pytest.mark.parametrize("method", [1, 2])
def test_an_encrypted_qcow2_is_refused(method: int, tmp_path: Path) -> None:
    path = tmp_path / "image"
    qemu_img("create", "-q", "-f", "qcow2", path, "1M")
    data = bytearray(path.read_bytes())
    struct.pack_into(">L", data, 32, method)  # AES, LUKS
    path.write_bytes(data)
    assert "encrypted" in refused(path, ImageFormat.QCOW2)


@pytest.mark.fault(50)
def test_a_differencing_vhd_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.vhd"
    qemu_img("create", "-q", "-f", "vpc", path, "10M")
    data = bytearray(path.read_bytes())
    for footer in (0, len(data) - 512):
        struct.pack_into(">L", data, footer + 60, 4)
        struct.pack_into(">L", data, footer + 64, 0)
        struct.pack_into(">L", data, footer + 64, ~sum(data[footer : footer + 512]) & 0xFFFFFFFF)
    path.write_bytes(data)
    assert "parent" in refused(path, ImageFormat.VHD)


@pytest.mark.parametrize("image_format", [f for f in ImageFormat if f is not ImageFormat.RAW])
@pytest.mark.parametrize("size", [0, 3, 70_000])
def test_a_file_of_another_format_is_refused(
    image_format: ImageFormat, size: int, tmp_path: Path
) -> None:
    path = tmp_path / "image"
    path.write_bytes(pattern(size))
    assert str(path) in refused(path, image_format)


@pytest.mark.fault(50)
def test_a_raw_disk_that_looks_like_qcow2_stays_raw(tmp_path: Path, secret: Path) -> None:
    """A guest may write a qcow2 header on its own disk; read as raw, it is only bytes."""
    inner = overlay(ImageFormat.QCOW2, tmp_path, secret)
    with closing(open_image_reader(inner, ImageFormat.RAW)) as reader:
        assert read(reader, 0, reader.size) == inner.read_bytes()


def test_names_with_commas_and_quotes_are_only_names(tmp_path: Path) -> None:
    path = tmp_path / 'a,driver=raw,"file": x.qcow2'
    qemu_img("create", "-q", "-f", "qcow2", path, "1M")
    with closing(open_image_reader(path, ImageFormat.QCOW2)) as reader:
        assert reader.size == MiB


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none", Path("/dev/null")):
        with pytest.raises(ImageError):
            open_image_reader(path, ImageFormat.QCOW2)
        with pytest.raises(ImageError):
            open_image_reader(path, ImageFormat.RAW)


@pytest.mark.parametrize("image_format", [ImageFormat.QCOW2, ImageFormat.VHD, ImageFormat.VMDK])
def test_good_images_are_accepted(image_format: ImageFormat, tmp_path: Path) -> None:
    path = tmp_path / "image"
    qemu_img("create", "-q", "-f", image_format.value, path, "8M")
    with QemuNbdServer(Image.at(path, image_format)) as server:
        assert server.running


def test_stream_optimized_and_fixed_subformats_are_accepted(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(pattern(4 * MiB))
    for image_format, option in [
        (ImageFormat.VMDK, "subformat=streamOptimized"),
        (ImageFormat.VHD, "subformat=fixed,force_size=on"),
        (ImageFormat.QCOW2, "compat=0.10"),
        (ImageFormat.QCOW2, "extended_l2=on"),
    ]:
        path = tmp_path / "image"
        qemu_img("convert", "-f", "raw", "-O", image_format.value, "-o", option, raw, path)
        with closing(open_image_reader(path, image_format)) as reader:
            assert read(reader, 0, reader.size) == pattern(4 * MiB)
