"""Exactly the asked range of a file that is an object, or an error that says which it is."""

import os

from connectors.local.direct import read_directly
from sealift.errors import IntegrityError, TransientError


def read_exactly(file: int, name: str, start: int, length: int | None) -> bytes:
    """``length`` bytes from ``start``, or all from there; one read in nearly all cases.

    Args:
        file: opened for reading.
        name: of the object, for errors.
        start: first byte.
        length: None = to the end.

    Raises:
        IntegrityError: the file ends before this range does.
        TransientError: it became shorter while it was read.
        OSError: it cannot be read.
    """
    wanted = _length_there(file, name, start, length)
    data = os.pread(file, wanted, start)
    while len(data) < wanted:
        more = os.pread(file, wanted - len(data), start + len(data))
        if not more:
            raise _became_shorter(name)
        data += more
    return data


def fill_exactly(file: int, name: str, start: int, buffer: memoryview) -> None:
    """As ``read_exactly``, into memory of the caller; past the page cache what is large."""
    _length_there(file, name, start, len(buffer))
    done = read_directly(file, buffer, start)
    while done < len(buffer):
        more = os.preadv(file, [buffer[done:]], start + done)
        if not more:
            raise _became_shorter(name)
        done += more


def _length_there(file: int, name: str, start: int, length: int | None) -> int:
    size = os.fstat(file).st_size
    end = size if length is None else start + length
    if end > size or (start and start >= size):
        raise IntegrityError(f"{name} ends at {size}, before byte {end}", name=name)
    return end - start


def _became_shorter(name: str) -> TransientError:
    return TransientError(f"{name}: the file became shorter while it was read", name=name)
