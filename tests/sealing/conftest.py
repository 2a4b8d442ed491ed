"""Rings of keys that are the same in every run."""

import hashlib
from collections.abc import Callable

import pytest

from sealift.sealing.chunks import ChunkSealer
from sealift.sealing.keys import KeyRing, RootKey
from sealift.sealing.records import RecordSealer

REPOSITORY = bytes(range(16))


def pseudo_random(seed: str) -> Callable[[int], bytes]:
    """Bytes that look random and are the same in every run."""
    count = 0

    def take(size: int) -> bytes:
        nonlocal count
        count += 1
        return hashlib.shake_128(f"{seed}:{count}".encode()).digest(size)

    return take


def ring_of(seed: str = "ring", *, epoch: int = 1, repository: bytes = REPOSITORY) -> KeyRing:
    entropy = pseudo_random(seed)
    roots = [RootKey(entropy(32)) for _ in range(epoch)]
    return KeyRing(roots[-1], repository, epoch, past=roots[:-1], entropy=entropy)


@pytest.fixture
def ring() -> KeyRing:
    return ring_of()


@pytest.fixture
def chunks(ring: KeyRing) -> ChunkSealer:
    return ChunkSealer(ring)


@pytest.fixture
def records(ring: KeyRing) -> RecordSealer:
    return RecordSealer(ring)
