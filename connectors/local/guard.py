"""Refuse image files that pull in other files. Reads headers only, a few KiB, in Python.

QEMU opens whatever an image's header names: a backing file, a data file, extents. An
image that somebody uploads can so name ``/etc/passwd``, and the content lands in the
copy. Not opening the backing file is no way out either: the image would silently read
as zeroes where it should show the backing file's content.
"""

import struct
from pathlib import Path
from typing import Any, BinaryIO

from connectors.local.formats import ImageFormat
from sealift.errors import ImageError
from sealift.units import KiB

_QCOW2_HEADER = struct.Struct(">4sLQLLQL")  # up to the encryption method
_QCOW2_FEATURES = struct.Struct(">Q")
_QCOW2_FEATURES_OFFSET = 72
_QCOW2_EXTERNAL_DATA_FILE = 4  # incompatible feature, docs/interop/qcow2.txt
_VMDK4_HEADER = struct.Struct("<4sLLQQQQ")  # up to the descriptor's size
_MAX_DESCRIPTOR_BYTES = 64 * KiB
_SECTOR = 512
_VHD_FOOTER_BYTES = 512
_VHD_TYPE = struct.Struct(">L")
_VHD_TYPE_OFFSET = 60
_VHD_FIXED, _VHD_DYNAMIC = 2, 3


def check_self_contained(path: Path, image_format: ImageFormat) -> None:
    """Return if the image needs no other file and no key.

    Raises:
        ImageError: it names other files, is encrypted, or is not of this format.
    """
    try:
        with path.open("rb") as file:
            _CHECKS.get(image_format, _accept)(path, file)
    except OSError as error:
        raise ImageError(f"{path} cannot be opened: {error.strerror}", path=str(path)) from error


def _accept(_path: Path, _file: BinaryIO) -> None:
    """RAW refers to nothing; QEMU itself refuses VHDX and VDI images with a parent."""


def _check_qcow2(path: Path, file: BinaryIO) -> None:
    magic, version, backing, _, _, _, encrypted = _unpack(path, _QCOW2_HEADER, file)
    if magic != b"QFI\xfb" or version not in (2, 3):
        raise _refusal(path, "is not a qcow2 image of version 2 or 3")
    if backing:
        raise _refusal(path, "has a backing file")
    if encrypted:
        raise _refusal(path, "is encrypted")
    if version == 3:
        file.seek(_QCOW2_FEATURES_OFFSET)
        (features,) = _unpack(path, _QCOW2_FEATURES, file)
        if features & _QCOW2_EXTERNAL_DATA_FILE:
            raise _refusal(path, "keeps its data in another file")


def _check_vmdk(path: Path, file: BinaryIO) -> None:
    """One sparse file with its descriptor inside, and no extent in other files."""
    magic, _, _, capacity, _, at, sectors = _unpack(path, _VMDK4_HEADER, file)
    if magic != b"KDMV" or not capacity or not at or not sectors:
        raise _refusal(path, "is not a single sparse VMDK file: its data may be in other files")
    if sectors * _SECTOR > _MAX_DESCRIPTOR_BYTES:
        raise _refusal(path, f"has a descriptor of {sectors} sectors")
    file.seek(at * _SECTOR)
    lines = file.read(sectors * _SECTOR).split(b"\0", 1)[0].decode("latin-1").lower().split("\n")
    _check_vmdk_descriptor(path, [line.strip() for line in lines])


def _check_vmdk_descriptor(path: Path, lines: list[str]) -> None:
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    kind = values.get("createtype", "").strip('" ')
    if kind not in ("monolithicsparse", "streamoptimized"):
        raise _refusal(path, f"is a VMDK of type {kind!r}: its data may be in other files")
    if values.get("parentcid", "ffffffff").strip() != "ffffffff" or "parentfilenamehint" in values:
        raise _refusal(path, "has a parent image")
    extents = [line for line in lines if line.startswith(("rw ", "rdonly ", "noaccess "))]
    if len(extents) != 1 or " sparse " not in extents[0]:
        raise _refusal(path, f"is a VMDK of {len(extents)} extents")


def _check_vhd(path: Path, file: BinaryIO) -> None:
    """Differencing images are read by QEMU as if they were whole."""
    end = file.seek(0, 2)
    file.seek(max(0, end - _VHD_FOOTER_BYTES))
    footer = file.read(_VHD_FOOTER_BYTES)
    if len(footer) < _VHD_FOOTER_BYTES or not footer.startswith(b"conectix"):
        raise _refusal(path, "is not a VHD image")
    kind: int = _VHD_TYPE.unpack_from(footer, _VHD_TYPE_OFFSET)[0]
    if kind not in (_VHD_FIXED, _VHD_DYNAMIC):
        raise _refusal(path, f"is a VHD of type {kind}, perhaps with a parent image")


_CHECKS = {
    ImageFormat.QCOW2: _check_qcow2,
    ImageFormat.VMDK: _check_vmdk,
    ImageFormat.VHD: _check_vhd,
}


def _unpack(path: Path, layout: struct.Struct, file: BinaryIO) -> tuple[Any, ...]:
    raw = file.read(layout.size)
    if len(raw) < layout.size:
        raise _refusal(path, "is too short to be an image")
    return layout.unpack(raw)


def _refusal(path: Path, why: str) -> ImageError:
    return ImageError(
        f"{path} {why}",
        next_step="convert it to one self-contained image on the machine that made it: "
        "qemu-img convert -O qcow2",
        path=str(path),
    )
