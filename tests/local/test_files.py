"""Files that change, vanish, are locked or full; processes that die."""

import errno
import os
import signal
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from connectors.local import (
    ImageReader,
    ImageWriter,
    RawFileReader,
    RawFileWriter,
    open_image_reader,
)
from connectors.local.children import Child
from connectors.local.partial import PartialFile
from converters.image import Image, ImageFormat
from sealift.clock import SystemClock
from sealift.errors import (
    ImageError,
    LockedError,
    OutOfSpaceError,
    PointLostError,
    SealiftError,
    SourceError,
    TargetDeniedError,
    TargetError,
    ToolError,
    UsageError,
)
from sealift.extents import Extent, Kind
from sealift.testing.contracts import pattern, read
from sealift.units import KiB, MiB

pytestmark = pytest.mark.tools

BLOCK = 64 * KiB


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "4M"], check=True)
    return path


def test_holes_are_zero_extents(tmp_path: Path) -> None:
    path = tmp_path / "raw"
    with path.open("wb") as file:
        file.seek(MiB)
        file.write(b"x" * MiB)
        file.truncate(4 * MiB)
    with closing(RawFileReader(path)) as reader:
        assert list(reader.extents(0, reader.size)) == [
            Extent(0, MiB, Kind.ZERO),
            Extent(MiB, MiB, Kind.DATA),
            Extent(2 * MiB, 2 * MiB, Kind.ZERO),
        ]
    with closing(RawFileReader(path, holes=False)) as reader:
        assert list(reader.extents(0, reader.size)) == [Extent(0, 4 * MiB, Kind.DATA)]


@pytest.mark.parametrize("change", ["write", "grow", "shrink", "replace", "remove"])
def test_a_file_that_changes_is_no_point_in_time(change: str, tmp_path: Path) -> None:
    path = tmp_path / "raw"
    path.write_bytes(pattern(MiB))
    with closing(RawFileReader(path)) as reader:
        assert read(reader, 0, 512) == pattern(MiB)[:512]
        _change(path, change)
        with pytest.raises(PointLostError, match="changed"):
            read(reader, MiB - 512, 512)
        with pytest.raises(PointLostError, match="changed"):
            list(reader.extents(0, MiB))


def _change(path: Path, change: str) -> None:
    os.utime(path, ns=(0, 0))  # so that the change below is in another tick for sure
    match change:
        case "write":
            path.write_bytes(pattern(MiB, seed=8))
        case "grow":
            os.truncate(path, 2 * MiB)
        case "shrink":
            os.truncate(path, 512)
        case "replace":
            other = path.with_name("other")
            other.write_bytes(pattern(MiB))
            other.rename(path)
        case _:
            path.unlink()


def test_an_image_that_changes_is_no_point_in_time(image: Path) -> None:
    with closing(open_image_reader(image, ImageFormat.QCOW2)) as reader:
        read(reader, 0, 512)
        os.utime(image)
        with pytest.raises(PointLostError, match="changed"):
            read(reader, 0, 512)


def test_identity_tells_content_apart(tmp_path: Path) -> None:
    path = tmp_path / "raw"
    path.write_bytes(pattern(MiB))
    with closing(RawFileReader(path)) as first:
        before = first.identity
    path.write_bytes(pattern(MiB, seed=8))
    with closing(RawFileReader(path)) as second:
        assert second.identity != before


def test_the_same_bytes_in_another_format_are_another_identity(image: Path) -> None:
    with (
        closing(open_image_reader(image, ImageFormat.QCOW2)) as one,
        closing(open_image_reader(image, ImageFormat.RAW)) as other,
    ):
        assert one.identity != other.identity


def test_a_server_that_was_killed_is_named_at_once(image: Path) -> None:
    reader = ImageReader(_node(image))
    os.kill(reader.server.pid, signal.SIGKILL)
    with pytest.raises(SourceError, match="ended") as caught:
        _read_until_it_fails(reader)
    assert not caught.value.retryable
    reader.close()


def _read_until_it_fails(reader: ImageReader) -> None:
    """The signal takes its time."""
    clock = SystemClock()
    deadline = clock.monotonic() + 60
    while clock.monotonic() < deadline:
        try:
            read(reader, 0, 512)
        except SealiftError as error:
            if not error.retryable:
                raise


def _node(image: Path) -> Image:
    return Image.at(image, ImageFormat.QCOW2)


def test_an_image_that_a_vm_has_open_for_writing_is_not_read(image: Path) -> None:
    writer = ImageWriter.create(image.with_name("new"), ImageFormat.QCOW2, 4 * MiB)
    (busy,) = image.parent.glob("new.*.partial")
    with pytest.raises(ImageError, match="in use"):
        open_image_reader(busy, ImageFormat.QCOW2)
    with pytest.raises(ImageError, match="in use"):
        ImageWriter.reopen(writer.identity, ImageFormat.QCOW2)
    writer.abort()


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    writer = RawFileWriter.create(tmp_path / "x", MiB)
    with pytest.raises(LockedError):
        RawFileWriter.reopen(writer.identity)
    writer.close()
    RawFileWriter.reopen(writer.identity).abort()


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_a_commit_whose_outcome_is_unknown_is_repeated(kind: str, tmp_path: Path) -> None:
    """Killed right after the rename: the next process finds it done, and may not write."""
    path = tmp_path / "x"
    first = _create(kind, path)
    first.write(0, memoryview(b"A" * BLOCK), [])
    first.commit([])
    again = _reopen(kind, first.identity)
    assert again.caps.size == first.caps.size
    again.commit([])
    with pytest.raises(TargetError):
        again.write(0, memoryview(b"B" * BLOCK), [])
    again.abort()
    assert path.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def _create(kind: str, path: Path) -> RawFileWriter | ImageWriter:
    if kind == "raw":
        return RawFileWriter.create(path, MiB)
    return ImageWriter.create(path, ImageFormat(kind), MiB)


def _reopen(kind: str, identity: str) -> RawFileWriter | ImageWriter:
    if kind == "raw":
        return RawFileWriter.reopen(identity)
    return ImageWriter.reopen(identity, ImageFormat(kind))


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_an_existing_file_is_never_overwritten(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"precious")
    with pytest.raises(TargetError, match="exists already"):
        _create(kind, path)
    path.unlink()
    writer = _create(kind, path)
    path.write_bytes(b"precious")
    with pytest.raises(TargetError, match="appeared meanwhile"):
        writer.commit([])
    writer.abort()
    assert path.read_bytes() == b"precious"


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_what_vanished_is_not_begun_anew(kind: str, tmp_path: Path) -> None:
    """A journal that believes in blocks of a vanished file must not get an empty one."""
    writer = _create(kind, tmp_path / "x")
    identity = writer.identity
    writer.abort()
    with pytest.raises(TargetError, match="gone"):
        _reopen(kind, identity)
    with pytest.raises(TargetError, match="gone"):
        PartialFile.reopen(identity)
    with pytest.raises(TargetError, match="does not name"):
        PartialFile.reopen("memory-target")


def test_another_file_under_the_same_name_is_not_ours(tmp_path: Path) -> None:
    writer = RawFileWriter.create(tmp_path / "x", MiB)
    (partial,) = tmp_path.iterdir()
    writer.close()
    other = tmp_path / "other"
    other.write_bytes(bytes(MiB))
    other.rename(partial)
    with pytest.raises(TargetError, match="gone"):
        RawFileWriter.reopen(writer.identity)


@pytest.mark.fault(7)
@pytest.mark.parametrize(
    ("number", "expected"),
    [(errno.ENOSPC, OutOfSpaceError), (errno.EDQUOT, OutOfSpaceError), (errno.EIO, TargetError)],
)
def test_write_errors_have_their_class(
    number: int, expected: type[SealiftError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = RawFileWriter.create(tmp_path / "x", MiB)

    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(expected):
        writer.write(0, memoryview(bytes(BLOCK)), [])
    writer.abort()


@pytest.mark.fault(5)
def test_a_failed_flush_is_final(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = RawFileWriter.create(tmp_path / "x", MiB)
    writer.write(0, memoryview(bytes(BLOCK)), [])
    with monkeypatch.context() as patched:

        def fail(_: int) -> None:
            raise OSError(errno.EIO, "broken")

        patched.setattr(os, "fdatasync", fail)
        with pytest.raises(TargetError):
            writer.flush()
    with pytest.raises(TargetError, match="a flush failed"):
        writer.commit([])
    assert not (tmp_path / "x").exists()
    writer.abort()


def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises((TargetError, TargetDeniedError), match="No such file"):
        RawFileWriter.create(tmp_path / "none" / "x", MiB)
    with pytest.raises(UsageError):
        ImageWriter.create(tmp_path / "x", ImageFormat.RAW, MiB)


def test_zero_punches_holes(tmp_path: Path) -> None:
    path = tmp_path / "x"
    writer = RawFileWriter.create(path, 4 * MiB)
    for at in range(0, 4 * MiB, MiB):
        writer.write(at, memoryview(b"x" * MiB), [])
    writer.zero(MiB, 2 * MiB)
    writer.commit([])
    assert path.stat().st_blocks * 512 == 2 * MiB
    assert path.stat().st_size == 4 * MiB


def test_a_missing_program_is_named() -> None:
    with pytest.raises(ToolError, match="no-such-program cannot be started"):
        Child(["no-such-program"])


def test_a_child_that_will_not_end_is_killed() -> None:
    child = Child(["sh", "-c", "trap '' TERM; echo deaf >&2; while :; do :; done"])
    while "deaf" not in child.words:
        assert child.running
    assert child.stop(0.1) == -signal.SIGKILL
    assert not child.running


def test_a_child_that_forgot_to_end_is_asked_again() -> None:
    forgets = "trap 'trap \"exit 3\" TERM' TERM; echo up >&2; while :; do sleep 0.01; done"
    child = Child(["sh", "-c", forgets])
    while "up" not in child.words:
        assert child.running
    assert child.stop(60) == 3


def test_a_chatty_child_neither_blocks_nor_fills_memory() -> None:
    child = Child(["sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x >&2; echo end >&2"])
    assert child.wait(30) == 0
    assert child.words.endswith("end")
    assert len(child.words) <= 4096


def test_a_server_outlives_the_thread_that_opened_it(image: Path) -> None:
    """The kernel's death signal is bound to a thread; to one that waits for the child."""
    opened: list[ImageReader] = []
    thread = threading.Thread(target=lambda: opened.append(ImageReader(_node(image))))
    thread.start()
    thread.join()
    (reader,) = opened
    assert read(reader, 0, 512) == bytes(512)
    reader.close()


ORPHAN = """
import sys
from pathlib import Path
from connectors.local import ImageReader
from converters.image import Image, ImageFormat
reader = ImageReader(Image.at(sys.argv[1], ImageFormat.QCOW2))
print(reader.server.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_server_outlives_us(number: signal.Signals, image: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHAN, str(image)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert _alive(pid)
        parent.send_signal(number)
        parent.wait()
    clock = SystemClock()
    deadline = clock.monotonic() + 60
    while _alive(pid):
        assert clock.monotonic() < deadline, "qemu-nbd is left"
        clock.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
