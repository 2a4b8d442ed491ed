"""Looking at an image file that may have been made to harm whoever opens it.

What is assumed: the file's content, and the content of files beside it, come from an
attacker. What is not: that the attacker can change files or links *while* we look;
directories that others can write to are outside of what can be promised.

How the format is decided, and why. A raw disk has no header, and the guest that owned it
could write any header to it: a tool that detects formats would then follow that guest's
references (CVE-2008-2004 and its descendants) or shift its data. So:

1. What the user states wins. A raw disk that looks like something else is read as raw,
   and ``ImageFacts.caveats`` says so.
2. A stated format without its mark is refused before any tool sees the file.
3. With nothing stated, exactly one mark in a regular file is believed, because its
   references are refused anyway. Not on block devices, which are raw almost always, and
   not in files that are called ``.raw`` or ``.dd``.
4. Raw is never guessed.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from converters import qemu_img
from converters.bounded import Read
from converters.facts import ImageInfo
from converters.headers import Header, Reference, ReferenceKind, read_header
from converters.image import Image, ImageFormat, absolute
from converters.magic import Claims, claims
from converters.process import Limits
from sealift.cancel import CancelToken
from sealift.display import printable
from sealift.errors import ImageError
from sealift.units import TiB, format_size

MAX_VIRTUAL_BYTES = 64 * TiB
"""The largest disk of any supported cloud (EBS); a larger claim is damage or an attack."""

_RAW_SUFFIXES = frozenset({".raw", ".dd"})
_PLAIN_EXTENTS = frozenset({"FLAT", "VMFS"})
_SECTOR = 512

_WAYS_OUT = {
    ReferenceKind.BACKING: "merge it where it was made (qemu-img convert does), or allow exactly "
    "that file as backing file if you trust it",
    ReferenceKind.PARENT: "merge the differencing disk into its parent where it was made",
    ReferenceKind.DATA_FILE: "convert it where it was made (qemu-img convert), or give the data "
    "file itself as a raw image",
    ReferenceKind.EXTENT: "export the disk as one file; a file in parts may only name parts "
    "beside it that begin with its own name",
}


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """An image that was found to refer to nothing that was not allowed.

    Attributes:
        image: what to hand to ``converters.convert``; the base included.
        format_stated: the user said so; otherwise its mark was believed.
        looks_like: formats whose marks were overruled.
        virtual_size_bytes: of the disk.
        file_size_bytes: of the file.
        allocated_bytes: what the file takes on the host, without extents and base.
        dirty: not closed cleanly.
        snapshots: internal snapshots, which no conversion carries over.
        bitmaps: persistent bitmaps, which no conversion carries over.
        extents: further files of a VMDK, all beside it.
        backing: the base's facts.
    """

    image: Image
    format_stated: bool
    looks_like: tuple[ImageFormat, ...]
    virtual_size_bytes: int
    file_size_bytes: int
    allocated_bytes: int
    dirty: bool
    snapshots: tuple[str, ...]
    bitmaps: tuple[str, ...]
    extents: tuple[Path, ...]
    backing: "ImageFacts | None"

    @property
    def caveats(self) -> tuple[str, ...]:
        """What a person should know before using the image, in sentences."""
        name = self.image.format.name.lower()
        found = [
            f"read as {name}, as stated, though it looks like {f.name.lower()}"
            for f in self.looks_like
        ]
        if self.snapshots:
            found.append(f"{len(self.snapshots)} internal snapshots are not carried over")
        if self.bitmaps:
            found.append(f"{len(self.bitmaps)} dirty bitmaps are not carried over")
        if self.dirty:
            found.append("it was not closed cleanly, so a virtual machine may have crashed")
        return tuple(found) + (self.backing.caveats if self.backing else ())


@dataclass(frozen=True, slots=True)
class _Policy:
    allowed: tuple[Image | Path, ...]
    max_virtual_bytes: int
    limits: Limits
    cancel: CancelToken | None

    def without(self, used: Image | Path) -> "_Policy":
        return replace(self, allowed=tuple(base for base in self.allowed if base is not used))


def inspect(
    path: Path | str,
    image_format: ImageFormat | None = None,
    *,
    allow_backing: Sequence[Image | Path] = (),
    max_virtual_bytes: int = MAX_VIRTUAL_BYTES,
    limits: Limits = qemu_img.PROBE,
    cancel: CancelToken | None = None,
) -> ImageFacts:
    """Say what an image is, having opened nothing but it and what was allowed.

    Headers are read by our own bounded parsers first; ``qemu-img`` sees the file only
    when they found no reference, and then under limits, read-only, with every driver
    stated. What it reports is checked once more.

    Args:
        path: a regular file or a block device; symbolic links are followed.
        image_format: stated by the user; see the module's text for what ``None`` means.
        allow_backing: bases that the image may read from, each used once; an ``Image``
            also states the base's format.
        max_virtual_bytes: largest disk.
        limits: of each tool run.
        cancel: ends the tool.

    Raises:
        ImageError: refused; the message names the image, what it refers to, and what to
            do. Nothing that it refers to was opened.
        ToolError: ``qemu-img`` is missing, was too slow, or was not understood.
        StoppedError: cancelled.
    """
    policy = _Policy(tuple(allow_backing), max_virtual_bytes, limits, cancel)
    return _inspect(absolute(path), image_format, policy)


def _inspect(path: Path, stated: ImageFormat | None, policy: _Policy) -> ImageFacts:
    with _opened(path) as (read, size, is_device):
        found = claims(read, size)
        chosen = decide(path, stated, found, is_device=is_device)
        header = _named_header(path, chosen, read, size)
    _check_size(path, header.virtual_size_bytes, policy)
    _check_encryption(path, encrypted=header.encrypted)
    extents = tuple(_extent(path, r) for r in header.references if r.kind is ReferenceKind.EXTENT)
    backing = _backing(path, header, policy)
    image = Image(path, chosen, backing.image if backing else None)
    # The base was inspected by itself; opening it here again would only widen the door.
    info = qemu_img.info(Image(path, chosen), limits=policy.limits, cancel=policy.cancel)
    _check_info(path, header, info, extents, policy)
    return ImageFacts(
        image=image,
        format_stated=stated is not None,
        looks_like=tuple(other for other in found.formats if other is not chosen),
        virtual_size_bytes=info.virtual_size_bytes,
        file_size_bytes=size,
        allocated_bytes=info.allocated_bytes,
        dirty=info.dirty,
        snapshots=info.snapshots,
        bitmaps=info.bitmaps,
        extents=extents,
        backing=backing,
    )


def decide(
    path: Path, stated: ImageFormat | None, found: Claims, *, is_device: bool = False
) -> ImageFormat:
    """The format to open ``path`` as; pure. The rules are in the module's text.

    Raises:
        ImageError: the user has to state the format, or stated a wrong one.
    """
    if stated is ImageFormat.RAW or stated in found.formats:
        return stated
    shown, marks = printable(str(path)), " and ".join(f.name.lower() for f in found.formats)
    if stated is not None:
        looks = f"; it looks like {marks or found.foreign}" if marks or found.foreign else ""
        raise ImageError(
            f"{shown} is not a {stated.name.lower()} image{looks}",
            next_step="state the format that the file really has",
            image=str(path),
        )
    if len(found.formats) == 1 and not is_device and path.suffix.lower() not in _RAW_SUFFIXES:
        return found.formats[0]
    if found.formats:
        raise ImageError(
            f"{shown} looks like {marks}, but a raw disk can be made to look like that",
            next_step="state the format: raw if it is the disk itself",
            image=str(path),
        )
    raise ImageError(
        f"{shown} has the mark of no image format"
        + (f"; it looks like {found.foreign}" if found.foreign else ""),
        next_step="if it is a raw disk, state the format raw: it is never guessed",
        image=str(path),
    )


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Read, int, bool]]:
    # Nonblocking, so that a FIFO in the file's place cannot hold us.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ImageError(
            f"{printable(str(path))} cannot be opened: {error.strerror}",
            next_step="check the path and its permissions",
            image=str(path),
        ) from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            raise ImageError(
                f"{printable(str(path))} is neither a file nor a block device",
                next_step="name an image file",
                image=str(path),
            )
        size = os.lseek(descriptor, 0, os.SEEK_END)
        yield _reader(descriptor, path), size, stat.S_ISBLK(mode)
    finally:
        os.close(descriptor)


def _reader(descriptor: int, path: Path) -> Read:
    def read(offset: int, length: int) -> bytes:
        if offset < 0 or length <= 0 or offset + length >= 2**63:
            return b""
        try:
            return os.pread(descriptor, length, offset)
        except OSError as error:
            raise ImageError(
                f"{printable(str(path))} cannot be read at {offset}: {error.strerror}",
                next_step="check the disk that it is on",
                image=str(path),
                offset=offset,
            ) from error

    return read


def _named_header(path: Path, chosen: ImageFormat, read: Read, size: int) -> Header:
    try:
        return read_header(chosen, read, size)
    except ImageError as error:
        raise ImageError(
            f"{printable(str(path))}: {error.message}",
            next_step=error.next_step,
            **{**error.operands, "image": str(path)},
        ) from error


def _check_size(path: Path, size_bytes: int | None, policy: _Policy) -> None:
    if size_bytes is not None and size_bytes > policy.max_virtual_bytes:
        raise ImageError(
            f"{printable(str(path))} claims a disk of {format_size(size_bytes)}, more than the "
            f"{format_size(policy.max_virtual_bytes)} allowed",
            next_step="check where the image comes from",
            image=str(path),
            virtual_size_bytes=size_bytes,
        )


def _check_encryption(path: Path, *, encrypted: bool) -> None:
    if encrypted:
        raise ImageError(
            f"{printable(str(path))} is encrypted by its format",
            next_step="decrypt it first (qemu-img convert with --object secret)",
            image=str(path),
        )


def _refused(path: Path, reference: Reference, why: str = "") -> ImageError:
    return ImageError(
        f"{printable(str(path))} refers to another file as its {reference.kind.value}: "
        f"{printable(reference.name) or '(no name)'}{why}",
        next_step=_WAYS_OUT[reference.kind],
        image=str(path),
        reference=printable(reference.name),
        kind=reference.kind.value,
    )


def _backing(path: Path, header: Header, policy: _Policy) -> ImageFacts | None:
    others = [r for r in header.references if r.kind is not ReferenceKind.EXTENT]
    if not others:
        return None
    reference = others[0]
    if reference.kind is not ReferenceKind.BACKING or len(others) > 1 or not policy.allowed:
        raise _refused(path, reference)
    # As text first: a protocol is never a path, not even one that somebody allowed.
    if ":" in reference.name.partition("/")[0]:
        raise _refused(path, reference, ", which is not a plain path")
    wanted = _resolved(path.parent / reference.name)
    for base in policy.allowed:
        allowed = base.path if isinstance(base, Image) else absolute(base)
        if os.path.realpath(allowed) == wanted:
            stated = base.format if isinstance(base, Image) else _stated(path, reference)
            return _inspect(allowed, stated, policy.without(base))
    raise _refused(path, reference, ", which is not a file that was allowed")


def _resolved(name: Path | str) -> str | None:
    """The real path; None for a name that no file can have, with a NUL in it for one."""
    try:
        return os.path.realpath(name)
    except ValueError:
        return None


def _stated(path: Path, reference: Reference) -> ImageFormat | None:
    if reference.format is None:
        return None
    try:
        return ImageFormat(reference.format)
    except ValueError:
        raise _refused(path, reference, f" in the format {printable(reference.format)}") from None


def _extent(path: Path, reference: Reference) -> Path:
    """A part beside its descriptor, of the descriptor's own name, and a plain file itself."""
    name = reference.name
    plain = "/" not in name and "\\" not in name and ":" not in name and name.isprintable()
    if not plain or not name.startswith(f"{path.stem}-") or not name.endswith(".vmdk"):
        raise _refused(path, reference)
    part = path.parent / name
    if not stat.S_ISREG(_mode(part)):
        raise _refused(path, reference, ", which is not a plain file")
    if reference.format not in _PLAIN_EXTENTS:
        _check_part(path, part, reference)
    return part


def _mode(part: Path) -> int:
    try:
        return part.lstat().st_mode
    except OSError:
        return 0


def _check_part(path: Path, part: Path, reference: Reference) -> None:
    """A sparse part may be a descriptor in disguise, which QEMU would follow."""
    with _opened(part) as (read, size, _device):
        if read(0, 4) == b"KDMV" and _named_header(part, ImageFormat.VMDK, read, size).references:
            raise _refused(path, reference, ", which refers to further files")


def _check_info(
    path: Path, header: Header, info: ImageInfo, extents: Sequence[Path], policy: _Policy
) -> None:
    _check_size(path, info.virtual_size_bytes, policy)
    known = {os.path.realpath(part) for part in (path, *extents)}
    for extent in info.extents:
        if _resolved(extent.filename) not in known:
            raise _refused(path, Reference(ReferenceKind.EXTENT, extent.filename))
    if info.data_file is not None:
        raise _refused(path, Reference(ReferenceKind.DATA_FILE, info.data_file))
    names = {r.name for r in header.references if r.kind is ReferenceKind.BACKING}
    if info.backing_file is not None and not names:
        raise _refused(path, Reference(ReferenceKind.BACKING, info.backing_file))
    _check_state(path, header, info)


def _check_state(path: Path, header: Header, info: ImageInfo) -> None:
    shown = printable(str(path))
    _check_encryption(path, encrypted=info.encrypted)
    if info.corrupt:
        raise ImageError(
            f"{shown} is marked as corrupt by QEMU",
            next_step="repair a copy of it (qemu-img check -r all), then compare with a backup",
            image=str(path),
        )
    claimed = header.virtual_size_bytes
    if claimed is not None and abs(info.virtual_size_bytes - claimed) >= _SECTOR:
        raise ImageError(
            f"{shown} claims a disk of {claimed} bytes, QEMU reads {info.virtual_size_bytes}",
            next_step="convert it with the tool that made it",
            image=str(path),
        )
