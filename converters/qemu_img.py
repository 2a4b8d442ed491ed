"""``qemu-img``, one function per command: images in, values out.

No function takes a file name for QEMU to interpret: sources are ``Image`` values, targets
are absolute paths, and options end with ``--``. Output is read as JSON only (``compare``
has none: there the exit code speaks). Each child runs under ``Limits``, in its own process
group, and is gone when the function returns (see ``converters.process``).
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from converters.facts import (
    CheckReport,
    Comparison,
    ImageInfo,
    MapExtent,
    Measure,
    parse_check,
    parse_info,
    parse_map,
    parse_measure,
)
from converters.formats import Container
from converters.image import Image
from converters.process import Finished, Limits, OutputTooLongError, run
from converters.tool_errors import refusal
from sealift.cancel import CancelToken
from sealift.errors import ToolError
from sealift.units import GiB, MiB, round_up

PROBE = Limits(
    timeout_seconds=30,
    cpu_seconds=30,
    address_space_bytes=GiB,
    file_size_bytes=0,
    output_bytes=4 * MiB,
)
"""For commands that read headers. Ten times what an ordinary image needs (measured: a
conversion of an ordinary image succeeds in 200 MB of address space)."""

SCAN = Limits(address_space_bytes=4 * GiB, file_size_bytes=0, output_bytes=64 * MiB)
"""For commands that read all metadata or all data; ``CancelToken`` bounds their time."""

SCAN_AND_WRITE = Limits(address_space_bytes=4 * GiB, output_bytes=MiB)
"""For a conversion whose caller has no limit for the new file."""

_WINDOW_BYTES = 64 * GiB
_SMALLEST_WINDOW_BYTES = 64 * MiB
_CHECK_UNSUPPORTED = 63  # documented in qemu-img(1), as are 2 corrupt and 3 leaked
_OFFSET = re.compile(r"ismatch at offset (\d{1,19})")
_LINE_BYTES = 24  # one progress line: four spaces, a number, "/100%)"
_TAIL_BYTES = 8 * 1024
_PROGRESS = re.compile(rb"\((\d{1,3}\.\d\d)/100%\)")


def info(image: Image, *, limits: Limits = PROBE, cancel: CancelToken | None = None) -> ImageInfo:
    """What the header says; a base is never opened.

    Raises:
        ImageError: QEMU refuses the image.
        ToolError: the tool is missing, too slow, or not understood.
    """
    done = _run("info", [image], ["--output=json"], limits, cancel=cancel)
    return parse_info(_accepted(done, [image], "read"))


def map_extents(
    image: Image,
    size_bytes: int,
    *,
    limits: Limits = SCAN,
    cancel: CancelToken | None = None,
) -> Iterator[MapExtent]:
    """Where the data of the disk ``[0, size_bytes)`` is, as a partition of it (I2).

    Asked in windows, so that memory stays bounded however fragmented the image is.

    Args:
        image: the image; its base counts when given.
        size_bytes: ``ImageInfo.virtual_size_bytes``.
        limits: for each window.
        cancel: stops between and within windows.

    Raises:
        ImageError: QEMU refuses the image.
        ToolError: the tool is missing or not understood, or the answer is no partition.
        StoppedError: cancelled.
    """
    start, window = 0, _WINDOW_BYTES
    while start < size_bytes:
        length = min(window, size_bytes - start)
        try:
            found = _map_window(image, start, length, limits, cancel)
        except OutputTooLongError:
            if window <= _SMALLEST_WINDOW_BYTES:
                raise
            window //= 4
            continue
        yield from _checked(found, start, length)
        start += length


def _map_window(
    image: Image, start: int, length: int, limits: Limits, cancel: CancelToken | None
) -> list[MapExtent]:
    options = ["--output=json", f"--start-offset={start}", f"--max-length={length}"]
    done = _run("map", [image], options, limits, cancel=cancel)
    return parse_map(_accepted(done, [image], "read"))


def _checked(found: Sequence[MapExtent], start: int, length: int) -> Iterator[MapExtent]:
    position = start
    for extent in found:
        if extent.start != position:
            raise ToolError(f"qemu-img map left out or repeated bytes at {position}")
        position = extent.end
        yield extent
    if position != start + length:
        raise ToolError(f"qemu-img map ended at {position}, not at {start + length}")


def measure(
    image: Image,
    container: Container,
    *,
    limits: Limits = SCAN,
    cancel: CancelToken | None = None,
) -> Measure:
    """The file size that ``container`` will need for this disk; raw and qcow2 only in QEMU 7.

    Raises:
        ImageError: QEMU refuses the image.
        ToolError: QEMU cannot say it for this container.
        StoppedError: cancelled.
    """
    options = ["--output=json", "-O", container.image_format.value, *_options(container)]
    done = _run("measure", [image], options, limits, cancel=cancel)
    return parse_measure(_accepted(done, [image], "measured"))


def check(
    image: Image, *, limits: Limits = SCAN, cancel: CancelToken | None = None
) -> CheckReport | None:
    """Whether the image's own metadata is consistent; never repairs. ``None``: cannot be said.

    Raises:
        ImageError: QEMU cannot even open the image.
        ToolError: the tool is missing or not understood.
        StoppedError: cancelled.
    """
    done = _run("check", [image], ["--output=json"], limits, cancel=cancel)
    if done.exit_code == _CHECK_UNSUPPORTED:
        return None
    if done.exit_code not in (0, 1, 2, 3) or not done.stdout:
        raise refusal(done, [image], "checked")
    return parse_check(done.stdout)


def compare(
    first: Image,
    second: Image,
    *,
    limits: Limits = SCAN,
    on_progress: Callable[[float], None] | None = None,
    cancel: CancelToken | None = None,
) -> Comparison:
    """Read both disks in full and compare them.

    Args:
        first: one image.
        second: the other one; its disk may be longer or shorter.
        limits: see ``Limits``.
        on_progress: as in ``convert``.
        cancel: kills the process group.

    Raises:
        ImageError: QEMU cannot read one of them.
        ToolError: the tool is missing or failed.
        StoppedError: cancelled.
    """
    reader = _ProgressReader(on_progress or (lambda _done: None))
    done = _run("compare", [first, second], ["-p"], limits, cancel=cancel, on_output=reader)
    if done.exit_code not in (0, 1):
        raise refusal(done, [first, second], "compared")
    text = f"{reader.tail.decode('utf-8', 'replace')}{done.stderr}"
    offset = _OFFSET.search(text)
    return Comparison(
        identical=done.exit_code == 0,
        sizes_differ="size mismatch" in text.lower(),
        first_difference=int(offset[1]) if offset else None,
    )


def create(path: Path, container: Container, size_bytes: int, *, limits: Limits = PROBE) -> None:
    """Create an empty image; an existing file is replaced.

    Args:
        path: absolute.
        container: what to create.
        size_bytes: of the disk; a multiple of 512.
        limits: the file size limit of ``PROBE`` is lifted, preallocation may need it.

    Raises:
        OutOfSpaceError, ToolError: nothing usable was created.
    """
    _target(path)
    lifted = Limits(
        limits.timeout_seconds,
        limits.cpu_seconds,
        limits.address_space_bytes,
        round_up(size_bytes + size_bytes // 8, MiB) + 64 * MiB,
        limits.output_bytes,
    )
    arguments = ["create", "-q", "-f", container.image_format.value, *_options(container)]
    done = run("qemu-img", [*arguments, "--", str(path), str(size_bytes)], lifted)
    if done.exit_code != 0:
        raise refusal(done, [], f"created at {path}")


def convert(
    source: Image,
    target: Path,
    container: Container,
    *,
    limits: Limits,
    compress: bool = False,
    on_progress: Callable[[float], None] | None = None,
    cancel: CancelToken | None = None,
) -> None:
    """Write the disk of ``source`` to the file ``target``, replacing it.

    The plain command: an error or a stop leaves half a file, and nothing is durable
    yet. ``converters.convert.convert_image`` is what callers want.

    Args:
        source: the image, with its base when it has one.
        target: absolute.
        container: what to write.
        limits: a file size limit protects the disk of the host.
        compress: compress qcow2 clusters.
        on_progress: done fraction 0.0 to 1.0, ascending; called in another thread.
        cancel: kills the process group.

    Raises:
        ImageError: the source cannot be read.
        OutOfSpaceError: the target's file system is full.
        ToolError: anything else that QEMU cannot do.
        StoppedError: cancelled.
    """
    _target(target)
    # No -t: QEMU's default skips its own flushes; the caller syncs the finished file once.
    arguments = ["convert", *(["-p"] if on_progress else []), *(["-c"] if compress else [])]
    arguments += ["-O", container.image_format.value, *_options(container)]
    arguments += ["--", source.locator(), str(target)]
    reader = _ProgressReader(on_progress) if on_progress else None
    done = run("qemu-img", arguments, limits, cancel=cancel, on_output=reader)
    if done.exit_code != 0:
        raise refusal(done, [source], f"converted to {target}")


class _ProgressReader:
    r"""Reads ``    (12.34/100%)\r`` as it comes, in any pieces.

    Attributes:
        tail: the end of what was read, for what is said between and after the numbers.
    """

    def __init__(self, report: Callable[[float], None]) -> None:
        self._report = report
        self._done = -1.0
        self.tail = b""

    def __call__(self, chunk: bytes) -> None:
        text = self.tail[-_LINE_BYTES:] + chunk
        self.tail = (self.tail + chunk)[-_TAIL_BYTES:]
        for number in _PROGRESS.findall(text):
            done = float(number) / 100
            if self._done < done <= 1:
                self._done = done
                self._report(done)


def _run(
    command: str,
    images: Sequence[Image],
    options: Sequence[str],
    limits: Limits,
    *,
    cancel: CancelToken | None,
    on_output: Callable[[bytes], None] | None = None,
) -> Finished:
    arguments = [command, *options, "--", *(image.locator() for image in images)]
    return run("qemu-img", arguments, limits, cancel=cancel, on_output=on_output)


def _accepted(done: Finished, images: Sequence[Image], verb: str) -> bytes:
    if done.exit_code != 0:
        raise refusal(done, images, verb)
    return done.stdout


def _options(container: Container) -> list[str]:
    return ["-o", ",".join(container.create_options)] if container.create_options else []


def _target(path: Path) -> None:
    if not path.is_absolute():
        raise ValueError(f"{path!r} is not absolute: use converters.image.absolute")
