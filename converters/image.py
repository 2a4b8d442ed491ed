"""An image file together with how it must be opened; nothing is ever left to detection."""

import json
import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from sealift.display import printable
from sealift.errors import UsageError


class ImageFormat(Enum):
    """The formats that Sealift reads; the value is QEMU's driver name."""

    RAW = "raw"
    QCOW2 = "qcow2"
    QCOW = "qcow"
    QED = "qed"
    VMDK = "vmdk"
    VDI = "vdi"
    VHD = "vpc"
    VHDX = "vhdx"
    PARALLELS = "parallels"

    @classmethod
    def named(cls, text: str) -> "ImageFormat":
        """The format that a person calls ``text``: QEMU's name, or ``vhd``.

        Raises:
            UsageError: there is no such format.
        """
        wanted = text.strip().lower()
        for known in cls:
            if wanted in (known.value, known.name.lower()):
                return known
        names = ", ".join(sorted(known.name.lower() for known in cls))
        raise UsageError(f"{printable(text)!r} is not an image format", next_step=f"use {names}")

    @property
    def has_backing(self) -> bool:
        """Whether an image of this format can be an overlay over another one in QEMU."""
        return self in _OVERLAYS

    @property
    def checkable(self) -> bool:
        """Whether ``qemu-img check`` knows this format."""
        return self not in (ImageFormat.RAW, ImageFormat.QCOW, ImageFormat.VHD)


_OVERLAYS = frozenset({ImageFormat.QCOW2, ImageFormat.QCOW, ImageFormat.QED, ImageFormat.VMDK})


@dataclass(frozen=True, slots=True)
class Image:
    """One image file, its format, and the base that it may read from.

    QEMU reads a file *name* as a little language: ``json:{...}``, ``nbd://host/`` and
    ``fat:`` are names to it. So it never gets one from us: ``locator`` states driver and
    path as separate JSON strings, which also makes commas, quotes, newlines and a
    leading dash ordinary characters. A base that was not given here is stated as absent,
    so that a reference in the file's own header is never followed, not even when the
    file changed after it was inspected.

    Attributes:
        path: absolute; made so by ``Image.at``.
        format: stated, never detected.
        backing: the base of an overlay; ``None`` means that none may be opened.
    """

    path: Path
    format: ImageFormat
    backing: "Image | None" = None

    def __post_init__(self) -> None:
        if not self.path.is_absolute():
            raise ValueError(f"{self.path!r} is not absolute: use Image.at")
        if self.backing is not None and not self.format.has_backing:
            raise ValueError(f"{self.format.name} has no backing files")

    @classmethod
    def at(cls, path: Path | str, image_format: ImageFormat) -> "Image":
        """The image at ``path`` (relative to the working directory, symbolic links kept).

        Raises:
            UsageError: the name cannot be handed to QEMU: not UTF-8, or contains NUL.
        """
        return cls(absolute(path), image_format)

    def locator(self, *, writable: bool = False) -> str:
        """What to give to a QEMU tool in place of a file name."""
        return "json:" + json.dumps({**self._node(), "read-only": not writable}, ensure_ascii=False)

    def _node(self) -> dict[str, object]:
        node: dict[str, object] = {
            "driver": self.format.value,
            "file": {"driver": _protocol(self.path), "filename": str(self.path)},
        }
        if self.format.has_backing:
            node["backing"] = self.backing._node() if self.backing else None
        if self.format is ImageFormat.VHD:
            # Otherwise QEMU takes the size from the geometry, which rounds down, for
            # every creator that it does not know by name: the end of the disk is lost.
            node["force_size_calc"] = "current_size"
        return node


def absolute(path: Path | str) -> Path:
    """``path`` made absolute without following links.

    An absolute path has a slash before any colon, so QEMU cannot take it for a protocol.

    Raises:
        UsageError: see ``Image.at``.
    """
    text = os.path.abspath(path)
    try:
        encoded = text.encode("utf-8")
    except UnicodeEncodeError:
        encoded = b"\0"
    if b"\0" in encoded:
        raise UsageError(
            f"the file name {printable(text)!r} is not UTF-8, so QEMU's tools cannot be given it",
            next_step="rename the file, or make a link to it with a plain name",
        )
    return Path(text)


def _protocol(path: Path) -> str:
    return "host_device" if path.is_block_device() else "file"
