"""Buffers of packs are whole when they are used again, and never shared."""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from connectors.local.object_folder import FolderObjectStore
from sealift.clock import SystemClock
from sealift.errors import TransientError
from sealift.objects import Bytes, ObjectInfo
from sealift.repository.buffers import LARGE_BYTES, PageBuffers
from sealift.repository.session import Repository, RepositoryOptions
from sealift.sealing.chunks import ChunkKind
from sealift.testing.state import MemoryStateStore
from sealift.units import KiB, MiB
from tests.repository.conftest import ring_of


def test_a_buffer_that_came_back_is_used_again_and_one_that_did_not_is_not() -> None:
    buffers = PageBuffers()
    first = buffers.joined([b"a" * LARGE_BYTES, b"b"])
    second = buffers.joined([b"c" * LARGE_BYTES, b"d"])
    assert first.obj is not second.obj
    held = first.obj
    buffers.give(first)
    third = buffers.joined([b"e", b"f" * 10])
    assert third.obj is held
    assert bytes(third) == b"e" + b"f" * 10
    assert bytes(second[-2:]) == b"cd"


def test_a_buffer_that_is_too_small_stays_where_it_is() -> None:
    buffers = PageBuffers()
    buffers.give(buffers.joined([b"a"]))
    large = buffers.joined([b"b" * (LARGE_BYTES + 1)])
    assert bytes(large) == b"b" * (LARGE_BYTES + 1)


def test_what_was_given_back_cannot_be_looked_at() -> None:
    buffers = PageBuffers()
    view = buffers.joined([b"secret"])
    buffers.give(view)
    with pytest.raises(ValueError, match="released"):
        bytes(view)
    buffers.give(b"bytes of somebody else")
    buffers.give(memoryview(b"and a view of them"))


class Failing(FolderObjectStore):
    """Its n-th put of a pack fails, before or after it took effect."""

    left, after = -1, False

    def put(self, name: str, data: Bytes, **options: Any) -> ObjectInfo:
        if name.startswith("packs/"):
            type(self).left -= 1
        fails = name.startswith("packs/") and self.left == 0
        if fails and not self.after:
            raise TransientError("before")
        done = super().put(name, data, **options)
        if fails:
            raise TransientError("after")
        return done


@pytest.fixture(params=[False, True], ids=["before", "after"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FolderObjectStore]:
    Failing.after = request.param
    with closing(Failing.open(tmp_path / "store", create=True)) as store:
        yield store


@pytest.mark.fault(5)
@pytest.mark.parametrize("turn", [1, 2, 3])
def test_a_pack_that_could_not_be_put_keeps_its_buffer(store: FolderObjectStore, turn: int) -> None:
    """Every chunk is there in the end, though other packs were made meanwhile."""
    options = RepositoryOptions(pack_bytes=2 * MiB)
    clock = SystemClock()
    repository = Repository.init(store, ring_of(), MemoryStateStore(), clock, None, options)
    Failing.left = turn
    packer, held = repository.packer, {}
    for _ in range(100):
        data = os.urandom(64 * KiB)
        held[repository.sealer.content_id(data)] = data
    failed = 0
    for one, data in held.items():
        try:
            packer.put(ChunkKind.DATA, [one], [data])
        except TransientError:
            failed += 1
            packer.put(ChunkKind.DATA, [one], [data])
    packer.flush()
    assert failed == 1
    found = repository.index.find(ChunkKind.DATA, held)
    assert found.keys() == held.keys()
    for one, where in found.items():
        sealed = store.get(where.pack, where.offset, where.length)
        assert repository.opened(ChunkKind.DATA, one, where, sealed) == held[one]
    repository.close()
