"""Disks with known content, and images of them made by qemu-img itself."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from converters.image import Image, ImageFormat
from sealift.units import KiB, MiB

DISK_BYTES = 8 * MiB


def pattern() -> bytes:
    """Data, zeroes that were written, a hole, and data up to the last byte."""
    disk = bytearray(DISK_BYTES)
    disk[: 64 * KiB] = bytes(range(256)) * 256
    disk[3 * MiB : 3 * MiB + 777] = b"\xa5" * 777
    disk[5 * MiB : 6 * MiB] = b"\x01\x02\x03\x04" * (MiB // 4)
    disk[-512:] = b"\xee" * 512
    return bytes(disk)


@pytest.fixture(scope="session")
def disk() -> bytes:
    return pattern()


@pytest.fixture
def raw_file(tmp_path: Path, disk: bytes) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(disk)
    return path


@pytest.fixture
def tool() -> Callable[..., str]:
    """The tool itself, as the oracle: not through the code under test."""

    def run(*arguments: str | Path) -> str:
        command = ["qemu-img", *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    return run


@pytest.fixture
def image_of(tmp_path: Path, raw_file: Path, tool: Callable[..., str]) -> Callable[..., Image]:
    """An image of the known disk in any format, with options of ``qemu-img convert``."""

    def make(image_format: ImageFormat, *options: str, name: str = "") -> Image:
        if image_format is ImageFormat.RAW:
            return Image(raw_file, image_format)
        path = tmp_path / (name or f"image.{image_format.value}")
        given = ["-o", ",".join(options)] if options else []
        if image_format is ImageFormat.VHD and not options:
            given = ["-o", "force_size=on"]
        tool("convert", "-f", "raw", "-O", image_format.value, *given, raw_file, path)
        return Image(path, image_format)

    return make
