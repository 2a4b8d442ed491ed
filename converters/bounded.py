"""Reading untrusted bytes: a read never asks for more than a parser's own limit."""

from collections.abc import Callable

from sealift.errors import ImageError

Read = Callable[[int, int], bytes]
"""``read(offset, length)``: the bytes there; shorter, or empty, at the end of the file."""


def exactly(read: Read, offset: int, length: int, what: str) -> bytes:
    """``length`` bytes at ``offset``; ``length`` is the caller's constant, never the file's.

    Raises:
        ImageError: the file ends before.
    """
    data = read(offset, length) if 0 <= offset < 2**63 else b""
    if len(data) != length:
        raise ImageError(
            f"the image is cut off: its {what} should be {length} bytes at {offset}",
            next_step="copy the image again and compare its checksum with the original's",
            offset=offset,
            length=length,
        )
    return data


def bounded(value: int, low: int, high: int, what: str) -> int:
    """``value``, when it is within ``[low, high]``.

    Raises:
        ImageError: it is not, so the header is damaged or hostile.
    """
    if not low <= value <= high:
        raise ImageError(
            f"the image's {what} is {value}, outside of {low}..{high}",
            next_step="the image is damaged or hostile: check where it comes from",
            value=value,
        )
    return value


def over(data: bytes) -> Read:
    """A ``Read`` over bytes in memory."""

    def read(offset: int, length: int) -> bytes:
        return data[offset : offset + length] if offset >= 0 and length > 0 else b""

    return read
