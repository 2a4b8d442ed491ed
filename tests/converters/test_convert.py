"""Conversions: all of the disk or no file; never half of one, never a process left."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from converters import qemu_img
from converters.convert import Phase, convert_image
from converters.formats import Container
from converters.image import Image, ImageFormat
from converters.untrusted import inspect
from converters.vhd import parse_footer
from sealift.cancel import CancelToken
from sealift.errors import ImageError, IntegrityError, StoppedError, UsageError
from sealift.readiness import readable
from sealift.units import GiB, KiB, MiB

pytestmark = pytest.mark.tools

Make = Callable[..., Image]
Tool = Callable[..., str]
WRITABLE = [c for c in Container if c is not Container.OVA]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("container", WRITABLE)
@pytest.mark.parametrize("image_format", list(ImageFormat))
def test_every_format_to_every_container_and_back(
    image_of: Make, tmp_path: Path, disk: bytes, image_format: ImageFormat, container: Container
) -> None:
    source = image_of(image_format)
    facts = inspect(source.path, image_format)
    done = convert_image(facts, tmp_path / "there", container)
    assert done.verified
    assert done.virtual_size_bytes == len(disk)
    assert done.file_size_bytes == (tmp_path / "there").stat().st_size

    there = inspect(done.image.path, container.image_format)
    back = convert_image(there, tmp_path / "back.raw", Container.RAW, verify=False)
    assert back.image.path.read_bytes() == disk


@pytest.mark.parametrize("size", [512, 1536, MiB - 512, MiB + 512, 10 * MiB + 512 * 3])
@pytest.mark.parametrize("container", WRITABLE)
def test_odd_sizes_keep_their_last_sector(tmp_path: Path, size: int, container: Container) -> None:
    content = os.urandom(size)
    (tmp_path / "odd").write_bytes(content)
    facts = inspect(tmp_path / "odd", ImageFormat.RAW)
    done = convert_image(facts, tmp_path / "there", container)
    back = convert_image(
        inspect(done.image.path, container.image_format), tmp_path / "back", Container.RAW
    )
    assert back.image.path.read_bytes() == content


def test_a_part_of_a_sector_is_filled_up_with_zeroes(tmp_path: Path) -> None:
    (tmp_path / "odd").write_bytes(b"x" * 1000)
    facts = inspect(tmp_path / "odd", ImageFormat.RAW)
    done = convert_image(facts, tmp_path / "out", Container.RAW)
    assert done.virtual_size_bytes == 1024
    assert done.image.path.read_bytes() == b"x" * 1000 + bytes(24)


def test_a_fixed_vhd_is_the_disk_and_a_footer(tmp_path: Path, raw_file: Path, disk: bytes) -> None:
    facts = inspect(raw_file, ImageFormat.RAW)
    done = convert_image(facts, tmp_path / "disk.vhd", Container.VHD_FIXED)
    whole = done.image.path.read_bytes()
    assert whole[:-512] == disk
    assert parse_footer(whole[-512:]).current_size == len(disk)


def test_a_vhd_larger_than_qemu_can_write_is_written(tmp_path: Path) -> None:
    with (tmp_path / "big.raw").open("wb") as file:
        file.truncate(2041 * GiB)
    facts = inspect(tmp_path / "big.raw", ImageFormat.RAW)
    target = tmp_path / "big.vhd"
    done = convert_image(facts, target, Container.VHD_FIXED, verify=False)
    assert done.file_size_bytes == 2041 * GiB + 512
    assert target.stat().st_blocks * 512 < 10 * MiB


def test_progress_of_each_phase_goes_up_to_one(image_of: Make, tmp_path: Path) -> None:
    seen: dict[Phase, list[float]] = {phase: [] for phase in Phase}
    facts = inspect(image_of(ImageFormat.QCOW2).path, ImageFormat.QCOW2)
    convert_image(
        facts,
        tmp_path / "out",
        Container.RAW,
        on_progress=lambda phase, done: seen[phase].append(done),
    )
    for values in seen.values():
        assert values == sorted(values)
        assert values[-1] == 1.0
    assert len(seen[Phase.CONVERT]) > 2


def test_compressed_qcow2_is_smaller_and_equal(tmp_path: Path) -> None:
    (tmp_path / "text.raw").write_bytes(b"the same words again and again; " * (256 * KiB))
    facts = inspect(tmp_path / "text.raw", ImageFormat.RAW)
    plain = convert_image(facts, tmp_path / "plain", Container.QCOW2)
    small = convert_image(facts, tmp_path / "small", Container.QCOW2, compress=True)
    assert small.file_size_bytes < plain.file_size_bytes / 4


def test_overlays_are_read_with_the_base_that_was_allowed(
    tmp_path: Path, tool: Tool, raw_file: Path, disk: bytes
) -> None:
    top = tmp_path / "top.qcow2"
    tool("create", "-q", "-f", "qcow2", "-F", "raw", "-b", raw_file, top)
    subprocess.run(
        ["qemu-io", "-c", "write -P 7 64K 64K", str(top)], check=True, capture_output=True
    )
    facts = inspect(top, ImageFormat.QCOW2, allow_backing=[raw_file])
    done = convert_image(facts, tmp_path / "flat", Container.RAW)
    expected = disk[: 64 * KiB] + b"\7" * 64 * KiB + disk[128 * KiB :]
    assert done.image.path.read_bytes() == expected


def test_the_new_file_is_for_its_owner_only(tmp_path: Path, raw_file: Path) -> None:
    facts = inspect(raw_file, ImageFormat.RAW)
    for container in (Container.RAW, Container.QCOW2, Container.VMDK):
        done = convert_image(facts, tmp_path / container.value, container)
        assert done.image.path.stat().st_mode & 0o777 == 0o600


def test_an_existing_target_is_kept_unless_asked(tmp_path: Path, raw_file: Path) -> None:
    target = tmp_path / "mine"
    target.write_bytes(b"precious")
    facts = inspect(raw_file, ImageFormat.RAW)
    with pytest.raises(UsageError, match="exists"):
        convert_image(facts, target, Container.RAW)
    assert target.read_bytes() == b"precious"
    convert_image(facts, target, Container.RAW, overwrite=True)
    assert target.read_bytes() == raw_file.read_bytes()


def test_the_source_is_never_its_own_target(tmp_path: Path, tool: Tool, raw_file: Path) -> None:
    (tmp_path / "link").symlink_to(raw_file)
    top = tmp_path / "top.qcow2"
    tool("create", "-q", "-f", "qcow2", "-F", "raw", "-b", raw_file, top)
    facts = inspect(top, ImageFormat.QCOW2, allow_backing=[raw_file])
    for target in (top, raw_file, tmp_path / "link"):
        with pytest.raises(UsageError, match="of the source"):
            convert_image(facts, target, Container.RAW, overwrite=True)


@pytest.mark.parametrize(("container", "compress"), [(Container.OVA, False), (Container.RAW, True)])
def test_what_cannot_be_written_is_said_first(
    tmp_path: Path, raw_file: Path, container: Container, compress: bool
) -> None:
    facts = inspect(raw_file, ImageFormat.RAW)
    with pytest.raises(UsageError, match="does not write"):
        convert_image(facts, tmp_path / "out", container, compress=compress)
    assert not (tmp_path / "out").exists()


def test_a_damaged_source_is_not_converted(image_of: Make, tmp_path: Path) -> None:
    image = image_of(ImageFormat.QCOW2)
    facts = inspect(image.path, ImageFormat.QCOW2)
    data = bytearray(image.path.read_bytes())
    l1 = int.from_bytes(data[40:48], "big")
    data[l1 : l1 + 8] = (l1 | 1 << 63).to_bytes(8, "big")  # the L1 table is its own L2 table
    image.path.write_bytes(data)
    with pytest.raises(ImageError, match=r"damaged: \d+ corruptions"):
        convert_image(facts, tmp_path / "out", Container.RAW)
    assert "out" not in names(tmp_path)


def test_a_source_that_changes_meanwhile_is_noticed(tmp_path: Path, raw_file: Path) -> None:
    facts = inspect(raw_file, ImageFormat.RAW)

    def meddle(phase: Phase, done: float) -> None:
        if phase is Phase.CONVERT and done == 1.0:
            with raw_file.open("r+b") as file:
                file.seek(100)
                file.write(b"changed")

    with pytest.raises(IntegrityError, match="differs from the source at byte 0"):
        convert_image(facts, tmp_path / "out", Container.RAW, on_progress=meddle)
    assert names(tmp_path) == {"disk.raw"}


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Half a GiB that takes QEMU a while to compress."""
    path = tmp_path / "large.raw"
    block = os.urandom(MiB)
    with path.open("wb") as file:
        for _ in range(512):
            file.write(block)
    return path


def test_cancel_in_the_middle_leaves_no_file_and_no_process(large: Path, tmp_path: Path) -> None:
    token, seen = CancelToken(), threading.Event()
    before = children_of(os.getpid())  # a server that other tests share, perhaps

    def stop(phase: Phase, done: float) -> None:
        if phase is Phase.CONVERT and 0 < done < 0.9:
            assert "out.partial" in names(tmp_path)
            token.cancel("test")
            seen.set()

    facts = inspect(large, ImageFormat.RAW)
    with pytest.raises(StoppedError):
        convert_image(
            facts,
            tmp_path / "out",
            Container.QCOW2,
            compress=True,
            on_progress=stop,
            cancel=token,
        )
    assert seen.is_set()
    assert names(tmp_path) == {"large.raw"}
    assert children_of(os.getpid()) == before


def children_of(pid: int) -> list[str]:
    listed = subprocess.run(
        ["ps", "-o", "comm=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    )
    return [line for line in listed.stdout.split() if line != "ps"]


_CONVERT = """
import sys
from converters.convert import convert_image
from converters.formats import Container
from converters.image import ImageFormat
from converters.untrusted import inspect
def tell(phase, done):
    print(phase.name, done, flush=True)
source, target = sys.argv[1:]
facts = inspect(source, ImageFormat.RAW)
convert_image(facts, target, Container.QCOW2, compress=True, on_progress=tell)
"""


def test_kill_9_leaves_no_process_and_the_next_run_takes_over(large: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    child = subprocess.Popen(
        [sys.executable, "-c", _CONVERT, str(large), str(target)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("CONVERT") and float(line.split()[1]) > 0:
            break
    tools = subprocess.run(
        ["pgrep", "-P", str(child.pid)], capture_output=True, text=True, check=True
    )
    watched = [os.pidfd_open(int(pid)) for pid in tools.stdout.split()]
    assert len(watched) == 1
    child.send_signal(signal.SIGKILL)
    child.wait(timeout=60)
    child.stdout.close()
    for descriptor in watched:
        assert readable(descriptor, 10)
        os.close(descriptor)
    assert names(tmp_path) == {"large.raw", "out.partial"}

    small = tmp_path / "small.raw"
    small.write_bytes(b"small" * 1024)
    done = convert_image(inspect(small, ImageFormat.RAW), target, Container.QCOW2)
    assert names(tmp_path) == {"large.raw", "small.raw", "out"}
    assert qemu_img.info(done.image).virtual_size_bytes == 5 * 1024


def test_a_source_that_lies_about_its_size_cannot_fill_the_host(
    tmp_path: Path, large: Path
) -> None:
    """The limit of the new file follows from what was inspected."""
    facts = inspect(large, ImageFormat.RAW)
    with large.open("r+b") as file:
        file.truncate(4 * GiB)
        file.seek(3 * GiB)
        file.write(b"x")
    with pytest.raises(Exception, match=r"File too large|4294967296") as caught:
        convert_image(facts, tmp_path / "out", Container.RAW)
    assert type(caught.value).__module__ == "sealift.errors"
    assert names(tmp_path) == {"large.raw"}
