"""What the headers of image files refer to, read without any tool. Pure.

QEMU opens what a header refers to while it opens the image, so the question "does this
image point elsewhere" has to be answered before QEMU sees it.
"""

from converters.bounded import Read
from converters.headers.header import Header, Reference, ReferenceKind
from converters.headers.qcow import read_qcow, read_qcow2, read_qed
from converters.headers.vdi import read_parallels, read_vdi
from converters.headers.vhd import read_vhd
from converters.headers.vhdx import read_vhdx
from converters.headers.vmdk import read_vmdk
from converters.image import ImageFormat

__all__ = ["Header", "Reference", "ReferenceKind", "read_header"]

_READERS = {
    ImageFormat.QCOW2: read_qcow2,
    ImageFormat.QCOW: read_qcow,
    ImageFormat.QED: read_qed,
    ImageFormat.VMDK: read_vmdk,
    ImageFormat.VDI: read_vdi,
    ImageFormat.VHD: read_vhd,
    ImageFormat.VHDX: read_vhdx,
    ImageFormat.PARALLELS: read_parallels,
}


def read_header(image_format: ImageFormat, read: Read, size_bytes: int) -> Header:
    """The header of a file that is said to be of this format.

    Args:
        image_format: stated.
        read: of the file.
        size_bytes: of the file.

    Raises:
        ImageError: the file is not of this format, is cut off, or is out of bounds.
    """
    if image_format is ImageFormat.RAW:
        return Header(size_bytes)
    return _READERS[image_format](read, size_bytes)
