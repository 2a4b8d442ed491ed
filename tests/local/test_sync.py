"""The engine between files of all formats, judged by qemu-img."""

import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from connectors.local import ImageWriter, RawFileWriter, open_image_reader
from connectors.local.image_writer import WRITABLE
from converters.image import ImageFormat
from sealift.clock import SystemClock
from sealift.disk import DiskWriter
from sealift.sync import SyncContext, sync
from sealift.testing.contracts import pattern
from sealift.units import MiB

pytestmark = pytest.mark.tools

SIZE = 8 * MiB
CONTENT = pattern(MiB + 12_345).ljust(5 * MiB, b"\0") + pattern(SIZE - 5 * MiB, seed=3)


def node(path: Path, image_format: ImageFormat) -> str:
    options = f"driver={image_format.value},file.driver=file,file.filename={path}"
    sized = ",force_size_calc=current_size" if image_format is ImageFormat.VHD else ""
    return options + sized


def create(path: Path, image_format: ImageFormat) -> DiskWriter:
    if image_format is ImageFormat.RAW:
        return RawFileWriter.create(path, SIZE)
    return ImageWriter.create(path, image_format, SIZE)


FORMATS = (ImageFormat.RAW, *WRITABLE)


@pytest.mark.parametrize("target", FORMATS, ids=lambda f: f"to-{f.value}")
@pytest.mark.parametrize("source", FORMATS, ids=lambda f: f"from-{f.value}")
def test_every_format_becomes_every_other(
    source: ImageFormat, target: ImageFormat, tmp_path: Path
) -> None:
    raw, image, copy = tmp_path / "raw", tmp_path / "image", tmp_path / "copy"
    raw.write_bytes(CONTENT)
    options = ["-o", "force_size=on"] if source is ImageFormat.VHD else []
    command = ["qemu-img", "convert", "-f", "raw", "-O", source.value, *options]
    subprocess.run([*command, str(raw), str(image)], check=True)
    with (
        closing(open_image_reader(image, source)) as reader,
        closing(create(copy, target)) as writer,
    ):
        report = sync(reader, writer, SyncContext(SystemClock()))
    # The hole of nearly 4 MiB is never sent, whatever the format calls it.
    assert report.progress.sent < 5 * MiB
    compare = ["qemu-img", "compare", "--image-opts"]
    subprocess.run([*compare, node(raw, ImageFormat.RAW), node(copy, target)], check=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "image", "raw"]
