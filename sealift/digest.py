"""Digests of blocks and of whole disks."""

import hashlib
from collections.abc import Callable, Iterable
from functools import lru_cache

DIGEST_BYTES = 32

Digest = Callable[[memoryview | bytes], bytes]
"""Digest of one block: ``DIGEST_BYTES`` bytes, never all zero, equal for equal bytes only."""


def block_digest(block: memoryview | bytes) -> bytes:
    """SHA-256 of one block; what the EBS direct API demands per block."""
    return hashlib.sha256(block).digest()


@lru_cache(maxsize=8)
def zero_digest(size: int) -> bytes:
    """SHA-256 of ``size`` zero bytes."""
    return hashlib.sha256(bytes(size)).digest()


@lru_cache(maxsize=8)
def _zeroes(size: int) -> bytes:
    return bytes(size)


def is_zero(data: memoryview) -> bool:
    """Whether every byte is zero.

    Goes through ``bytes`` because its comparison runs at memory speed (23 GB/s measured),
    a memoryview's at a twentieth of it.
    """
    return not data or (data[0] == 0 and data[-1] == 0 and bytes(data) == _zeroes(len(data)))


def linear(digests: Iterable[bytes]) -> bytes:
    """SHA-256 over raw block digests in ascending block order: EBS's LINEAR aggregation."""
    total = hashlib.sha256()
    for digest in digests:
        total.update(digest)
    return total.digest()
