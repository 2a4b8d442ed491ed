"""A disk in a repository keeps what every disk promises."""

import random

import pytest

from sealift.repository.reader import RepositoryReader
from sealift.repository.tree import Tree
from sealift.repository.writer import RepositoryWriter
from sealift.testing.contracts import ReaderCase, ReaderContract, WriterCase, WriterContract
from tests.repository.conftest import CHUNK, World, content, memory_reader, point_of, written


def some_disk(seed: int, chunks: int = 37) -> bytes:
    rng = random.Random(seed)
    parts = [rng.choice([bytes(CHUNK), rng.randbytes(CHUNK)]) for _ in range(chunks)]
    return b"".join(parts) + b"the last chunk is cut short"


class TestReader(ReaderContract):
    @pytest.fixture
    def reader_case(self, world: World) -> ReaderCase:
        repository = world.init()
        data = some_disk(1)
        tree = written(repository, memory_reader(data), world.context())
        repository.publish(point_of(1, tree), {})
        return ReaderCase(lambda: RepositoryReader(world.open(), tree, "point/disk"), data)


class TestIncrementalReader(ReaderContract):
    @pytest.fixture
    def reader_case(self, world: World) -> ReaderCase:
        repository = world.init()
        base = some_disk(1, 20)
        data = bytearray(some_disk(1))
        data[3 * CHUNK : 4 * CHUNK] = bytes(CHUNK)
        data[9 * CHUNK : 11 * CHUNK] = b"changed!" * (CHUNK // 4)
        old = written(repository, memory_reader(base), world.context())
        repository.publish(point_of(1, old), {})
        new = written(repository, memory_reader(bytes(data)), world.context(), base=old)
        repository.publish(point_of(2, new), {})

        def opened() -> RepositoryReader:
            return RepositoryReader(world.open(), new, "point/disk", old)

        return ReaderCase(opened, bytes(data), base)


class Writing:
    """One disk of a point; published by the test's reader, as a target does after the last disk."""

    def __init__(self, world: World, base: Tree | None, size: int) -> None:
        self.world, self.base, self.size = world, base, size
        self.done: list[Tree] = []

    def open(self) -> RepositoryWriter:
        done = self.done[0] if self.done else None
        return RepositoryWriter(
            self.world.open(),
            identity="disk",
            size=self.size,
            base=self.base,
            finished=self.done.append,
            done=done,
        )

    def content(self) -> bytes:
        repository = self.world.open()
        repository.publish(point_of(7, self.done[0]), {})
        return content(self.world.open(), self.done[0])

    def case(self, base: bytes = b"") -> WriterCase:
        return WriterCase(
            self.open, self.content, visible=lambda: bool(self.done), crash=lambda: None, base=base
        )


class TestFreshDisk(WriterContract):
    @pytest.fixture
    def writer_case(self, world: World) -> WriterCase:
        world.init()
        return Writing(world, None, 70 * CHUNK + 100).case()


class TestOnABase(WriterContract):
    @pytest.fixture
    def writer_case(self, world: World) -> WriterCase:
        repository = world.init()
        base = some_disk(5, 30)
        tree = written(repository, memory_reader(base), world.context())
        repository.publish(point_of(1, tree), {})
        return Writing(world, tree, 70 * CHUNK + 100).case(base)
