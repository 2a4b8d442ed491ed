"""The contract suites against files of every format."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from connectors.local import (
    ImageWriter,
    RawFileReader,
    RawFileWriter,
    open_image_reader,
)
from connectors.local.image_writer import WRITABLE
from converters.image import ImageFormat
from sealift.disk import DiskWriter
from sealift.testing.contracts import (
    ReaderCase,
    ReaderContract,
    WriterCase,
    WriterContract,
    pattern,
)
from sealift.units import KiB, MiB

pytestmark = pytest.mark.tools

SIZE = 3 * MiB  # whole MiB: VDI and VHD know nothing smaller
IMAGES = list(WRITABLE)


def content() -> bytes:
    """Data, a long hole, data to the end."""
    return pattern(300_001).ljust(2 * MiB, b"\0") + pattern(MiB)


def sparse(path: Path, data: bytes) -> Path:
    with path.open("wb") as file:
        for start in range(0, len(data), 4096):
            if any(data[start : start + 4096]):
                file.seek(start)
                file.write(data[start : start + 4096])
        file.truncate(len(data))
    return path


def as_raw(path: Path, image_format: ImageFormat) -> bytes:
    """What qemu-img reads; for VHD at its footer's size."""
    options = f"driver={image_format.value},file.driver=file,file.filename={path}"
    if image_format is ImageFormat.VHD:
        options += ",force_size_calc=current_size"
    raw = path.with_name("as-raw")
    command = ["qemu-img", "convert", "--image-opts", "-O", "raw", options, str(raw)]
    subprocess.run(command, check=True)
    return raw.read_bytes()


class TestImageReaders(ReaderContract):
    @pytest.fixture(params=ImageFormat, ids=lambda f: f.value)
    def reader_case(self, request: pytest.FixtureRequest, tmp_path: Path) -> ReaderCase:
        image_format: ImageFormat = request.param
        data = content()
        raw, image = sparse(tmp_path / "raw", data), tmp_path / "image"
        options = ["-o", "force_size=on"] if image_format is ImageFormat.VHD else []
        command = ["qemu-img", "convert", "-f", "raw", "-O", image_format.value, *options]
        subprocess.run([*command, str(raw), str(image)], check=True)
        return ReaderCase(lambda: open_image_reader(image, image_format), data)


class TestOddRawFile(ReaderContract):
    """A size that no sector divides: to the byte, where QEMU would round up."""

    @pytest.fixture(params=[True, False], ids=["holes", "all-data"])
    def reader_case(self, request: pytest.FixtureRequest, tmp_path: Path) -> ReaderCase:
        data = content() + b"the end"
        raw = sparse(tmp_path / "raw", data)
        return ReaderCase(lambda: RawFileReader(raw, holes=request.param), data)


class Once:
    """Creates at the first call, reopens at later ones, as a restarted process does."""

    def __init__(
        self, create: Callable[[], DiskWriter], reopen: Callable[[str], DiskWriter]
    ) -> None:
        self._create, self._reopen = create, reopen
        self._identity = ""
        self.opened: list[DiskWriter] = []

    def __call__(self) -> DiskWriter:
        writer = self._reopen(self._identity) if self._identity else self._create()
        self._identity = writer.identity
        self.opened.append(writer)
        return writer


class TestRawFileWriter(WriterContract):
    @pytest.fixture
    def writer_case(self, tmp_path: Path) -> WriterCase:
        path, size = tmp_path / "disk.raw", SIZE + 1000
        return WriterCase(
            open=Once(lambda: RawFileWriter.create(path, size), RawFileWriter.reopen),
            content=path.read_bytes,
            visible=path.exists,
        )


class TestImageWriters(WriterContract):
    @pytest.fixture(params=IMAGES, ids=lambda f: f.value)
    def writer_case(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[WriterCase]:
        image_format: ImageFormat = request.param
        path = tmp_path / "image"
        opened: list[ImageWriter] = []

        def keep(writer: ImageWriter) -> ImageWriter:
            opened.append(writer)
            return writer

        def crash() -> None:
            """SIGKILL to qemu-nbd: what QEMU held back is gone."""
            opened[-1].kill_server()

        yield WriterCase(
            open=Once(
                lambda: keep(ImageWriter.create(path, image_format, SIZE)),
                lambda identity: keep(ImageWriter.reopen(identity, image_format)),
            ),
            content=lambda: as_raw(path, image_format),
            visible=path.exists,
            crash=crash,
        )
        for writer in opened:
            writer.close()


def test_the_grid_is_64_kib(tmp_path: Path) -> None:
    writer = RawFileWriter.create(tmp_path / "x", SIZE)
    assert writer.caps.block_size == 64 * KiB
    writer.abort()
    assert not list(tmp_path.iterdir())
