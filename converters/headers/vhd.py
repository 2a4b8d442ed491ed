"""VHD: the footer, and whether the image only holds differences."""

from converters.bounded import Read
from converters.headers.header import Header, Reference, ReferenceKind, not_of_format
from converters.vhd import FOOTER_BYTES, DiskType, find_footer
from sealift.errors import ImageError

_PARENT_NAME_AT = 64
_PARENT_NAME_BYTES = 512


def read_vhd(read: Read, size_bytes: int) -> Header:
    """VHD, fixed or dynamic; a differencing one names its parent.

    Raises:
        ImageError: see ``read_header``.
    """
    footer = find_footer(read, size_bytes)
    if footer is None:
        raise not_of_format("VHD")
    if footer.disk_type is DiskType.DIFFERENCING:
        # QEMU would read it as a whole disk and give zeroes for what the parent holds.
        raw = read(footer.data_offset + _PARENT_NAME_AT, _PARENT_NAME_BYTES)
        name = raw.decode("utf-16-be", "backslashreplace").rstrip("\0")
        return Header(footer.current_size, (Reference(ReferenceKind.PARENT, name),))
    if footer.disk_type is DiskType.FIXED and footer.current_size + FOOTER_BYTES > size_bytes:
        raise ImageError(
            f"the VHD image is cut off: a disk of {footer.current_size} bytes in a file of "
            f"{size_bytes}",
            next_step="copy the image again and compare its checksum with the original's",
        )
    return Header(footer.current_size)
