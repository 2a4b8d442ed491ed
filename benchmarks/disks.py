"""Disks and ends that benchmarks share."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from sealift.disk import Unwritten, WriterCaps
from sealift.units import KiB, MiB

_STEP = 16 * MiB


def write_data(path: Path, size: int, parts: Iterable[tuple[int, int]]) -> Path:
    """A sparse raw disk with incompressible bytes in ``parts`` (offset, length).

    Equal bytes come again every 16 MiB: nothing that is measured looks for equal blocks.
    """
    noise = os.urandom(_STEP)
    with path.open("wb") as file:
        file.truncate(size)
        for start, length in parts:
            for at in range(start, start + length, _STEP):
                file.seek(at)
                file.write(noise[: min(_STEP, start + length - at)])
    return path


def spread(size: int, data: int, piece: int) -> list[tuple[int, int]]:
    """Pieces of ``piece`` bytes, evenly over ``size``, that add up to about ``data`` bytes."""
    count = max(1, data // piece)
    step = size // count // piece * piece
    return [(number * step, piece) for number in range(count)]


class CountingWriter:
    """A fresh disk that takes everything, keeps nothing and counts.

    Args:
        size: bytes of the disk.
        concurrency: see ``WriterCaps``.
    """

    identity = "counting"

    def __init__(self, size: int, concurrency: int) -> None:
        self.caps = WriterCaps(
            size=size,
            block_size=64 * KiB,
            unwritten=Unwritten.ZERO,
            max_op_bytes=4 * MiB,
            concurrency=concurrency,
        )
        self.committed = False

    def write(self, offset: int, data: memoryview, digests: Sequence[bytes]) -> None:
        """See ``DiskWriter.write``."""

    def zero(self, offset: int, length: int) -> None:
        """Never called: there is no native zero."""
        raise NotImplementedError

    def flush(self) -> None:
        """See ``DiskWriter.flush``."""

    def commit(self, blocks: Iterable[tuple[int, bytes]]) -> None:
        """See ``DiskWriter.commit``."""
        self.committed = True

    def abort(self) -> None:
        """See ``DiskWriter.abort``."""

    def close(self) -> None:
        """See ``DiskWriter.close``."""
