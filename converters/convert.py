"""Turning one inspected image into another file: all of it, or nothing."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from uuid import uuid4

from converters import qemu_img
from converters.formats import SECTOR_BYTES, Container
from converters.image import Image, absolute
from converters.partial import partial_file
from converters.process import Limits
from converters.untrusted import ImageFacts
from converters.vhd import fixed_footer
from sealift.cancel import CancelToken
from sealift.clock import Clock, SystemClock
from sealift.display import printable
from sealift.errors import ImageError, IntegrityError, UsageError
from sealift.units import GiB, MiB, round_up

_ADDRESS_SPACE_BYTES = 4 * GiB


class Phase(Enum):
    """What a conversion is doing."""

    CHECK = "checking the source's metadata"
    CONVERT = "converting"
    VERIFY = "comparing both disks"


Report = Callable[[Phase, float], None]
"""Called with the done fraction of the phase, 0.0 to 1.0, ascending; from another thread."""


@dataclass(frozen=True, slots=True)
class Converted:
    """A finished conversion.

    Attributes:
        image: the new file.
        virtual_size_bytes: of the disk, the same as the source's.
        file_size_bytes: apparent size of the new file.
        verified: every byte was read back and compared.
    """

    image: Image
    virtual_size_bytes: int
    file_size_bytes: int
    verified: bool


def convert_image(
    source: ImageFacts,
    target: Path | str,
    container: Container,
    *,
    compress: bool = False,
    overwrite: bool = False,
    verify: bool = True,
    on_progress: Report | None = None,
    cancel: CancelToken | None = None,
    clock: Clock | None = None,
) -> Converted:
    """Write the disk of ``source`` to ``target``.

    The source is ``ImageFacts``, not a path: an image whose base was refused would
    read as zeroes where the base has data, and nothing would be seen to fail.
    The target appears when it is whole, compared and durable; after an error, a stop or
    a kill nothing of that name was changed (I6).

    Args:
        source: from ``converters.untrusted.inspect``.
        target: the new file.
        container: its form; see ``converters.formats``.
        compress: qcow2 only.
        overwrite: replace an existing file, atomically and at the end.
        verify: read both disks in full and compare them before the target appears.
        on_progress: see ``Report``.
        cancel: ends the tool and removes what it wrote.
        clock: for the time in a VHD's footer.

    Raises:
        UsageError: the target exists or is a part of the source, or the container
            cannot be written.
        ImageError: the source's metadata is damaged, or it cannot be read.
        IntegrityError: the new disk is not the old one.
        OutOfSpaceError, LocalStateError, LockedError: see ``partial_file``.
        ToolError: the tool is missing or failed.
        StoppedError: cancelled.
    """
    path = absolute(target)
    _usable(source, path, container, compress=compress)
    report = on_progress or (lambda _phase, _done: None)
    _check(source, report, cancel)
    # QEMU neither writes nor reads a VHD of more than 2,040 GiB, which Azure takes.
    through = Container.RAW if container is Container.VHD_FIXED else container
    with partial_file(path, overwrite=overwrite) as partial:
        qemu_img.convert(
            source.image,
            partial,
            through,
            limits=_limits(source.virtual_size_bytes),
            compress=compress,
            on_progress=lambda done: report(Phase.CONVERT, done),
            cancel=cancel,
        )
        written = Image(partial, through.image_format)
        _same_size(source, written)
        if verify:
            _same_bytes(source.image, written, report, cancel)
        if container is Container.VHD_FIXED:
            _append_footer(partial, source.virtual_size_bytes, clock)
        size = partial.stat().st_size
    return Converted(
        Image(path, container.image_format), source.virtual_size_bytes, size, verified=verify
    )


def _usable(source: ImageFacts, target: Path, container: Container, *, compress: bool) -> None:
    if container is Container.OVA or (compress and container is not Container.QCOW2):
        raise UsageError(
            f"Sealift does not write {'compressed ' if compress else ''}{container.value}",
            next_step="choose raw, qcow2, vmdk-stream, vhd-fixed or vhdx",
        )
    if any(os.path.realpath(target) == os.path.realpath(part) for part in _files(source)):
        raise UsageError(
            f"{printable(str(target))} is a file of the source", next_step="choose another target"
        )


def _files(source: ImageFacts) -> Iterator[Path]:
    yield source.image.path
    yield from source.extents
    if source.backing is not None:
        yield from _files(source.backing)


def _check(source: ImageFacts, report: Report, cancel: CancelToken | None) -> None:
    """Damaged tables can give other bytes than the guest wrote, so they end it here."""
    if source.backing is not None:
        _check(source.backing, report, cancel)
    if not source.image.format.checkable:
        return
    report(Phase.CHECK, 0.0)
    found = qemu_img.check(Image(source.image.path, source.image.format), cancel=cancel)
    if found is not None and not found.sound:
        raise ImageError(
            f"{printable(str(source.image.path))} is damaged: {found.corruptions} corruptions, "
            f"{found.errors} errors in its metadata",
            next_step="repair a copy of it (qemu-img check -r all), then compare with a backup",
            corruptions=found.corruptions,
            errors=found.errors,
        )
    report(Phase.CHECK, 1.0)


def _limits(virtual_size_bytes: int) -> Limits:
    """No more than the disk and an eighth for tables: a lying image cannot fill the host."""
    file_size = round_up(virtual_size_bytes + virtual_size_bytes // 8, MiB) + 64 * MiB
    return Limits(
        address_space_bytes=_ADDRESS_SPACE_BYTES,
        file_size_bytes=file_size,
        output_bytes=MiB,
    )


def _same_size(source: ImageFacts, written: Image) -> None:
    size = qemu_img.info(written).virtual_size_bytes
    if size != round_up(source.virtual_size_bytes, SECTOR_BYTES):
        raise IntegrityError(
            f"the new disk has {size} bytes, the source {source.virtual_size_bytes}",
            next_step="report it with both images' `qemu-img info`",
            size_bytes=size,
            source_size_bytes=source.virtual_size_bytes,
        )


def _append_footer(partial: Path, size_bytes: int, clock: Clock | None) -> None:
    created = (clock or SystemClock()).now()
    with partial.open("r+b") as file:
        file.seek(size_bytes)
        file.write(fixed_footer(size_bytes, unique_id=uuid4(), created=created))


def _same_bytes(source: Image, written: Image, report: Report, cancel: CancelToken | None) -> None:
    found = qemu_img.compare(
        source, written, on_progress=lambda done: report(Phase.VERIFY, done), cancel=cancel
    )
    if not found.identical or found.sizes_differ:
        raise IntegrityError(
            f"the new disk differs from the source at byte {found.first_difference}",
            next_step="is the source still in use? stop it, then run again",
            first_difference=found.first_difference,
        )
