"""Small repositories in memory, with keys that are the same in every run."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from sealift.disk import DiskReader
from sealift.endpoints import Consistency, Firmware, SourceVm, VmDisk
from sealift.objects import ObjectStore
from sealift.pipeline import InlineExecutor
from sealift.repository.points import PointDisk, PointManifest
from sealift.repository.reader import RepositoryReader
from sealift.repository.session import Repository, RepositoryOptions
from sealift.repository.tree import Tree
from sealift.repository.writer import RepositoryWriter
from sealift.sealing.keys import KeyRing, RootKey
from sealift.sync import SyncContext, sync
from sealift.testing.clock import VirtualClock
from sealift.testing.memory import MemoryReader
from sealift.testing.object_memory import MemoryObjectStore
from sealift.testing.state import MemoryStateStore
from sealift.units import KiB

CHUNK = 4 * KiB
"""A chunk of 4 KiB makes disks of some KiB deep enough for every case."""
REPOSITORY_ID = bytes(range(16))


def pseudo_random(seed: str) -> Callable[[int], bytes]:
    """Bytes that look random and are the same in every run."""
    count = 0

    def take(size: int) -> bytes:
        nonlocal count
        count += 1
        return hashlib.shake_128(f"{seed}:{count}".encode()).digest(size)

    return take


def ring_of(seed: str = "ring", *, repository: bytes = REPOSITORY_ID) -> KeyRing:
    root = RootKey(hashlib.sha256(b"root").digest())
    return KeyRing(root, repository, 1, entropy=pseudo_random(seed))


def vm_of(*disks: VmDisk) -> SourceVm:
    uuid = "4c4c4544-0000-4000-8000-00000000beef"
    return SourceVm(uuid, "web-1", "boot-1", Firmware.BIOS, "x86_64", 2, 1 << 30, disks)


@dataclass
class World:
    """A repository, and what one host keeps of it."""

    store: ObjectStore = field(default_factory=MemoryObjectStore)
    state: MemoryStateStore = field(default_factory=MemoryStateStore)
    clock: VirtualClock = field(default_factory=VirtualClock)
    options: RepositoryOptions = field(
        default_factory=lambda: RepositoryOptions(chunk_bytes=CHUNK, pack_bytes=64 * KiB)
    )
    seed: str = "ring"
    opened: int = 0

    def init(self) -> Repository:
        return self._call(Repository.init)

    def open(self, **options: Any) -> Repository:
        return self._call(Repository.open, **options)

    def _call(self, how: Callable[..., Repository], **options: Any) -> Repository:
        self.opened += 1
        ring = ring_of(f"{self.seed}-{self.opened}")
        return how(self.store, ring, self.state, self.clock, None, self.options, **options)

    def other_host(self, seed: str) -> "World":
        """The same repository, seen from a host with a state folder of its own."""
        return World(self.store, clock=self.clock, options=self.options, seed=seed)

    def context(self) -> SyncContext:
        return SyncContext(clock=self.clock, executor=InlineExecutor())


def written(
    repository: Repository,
    reader: DiskReader,
    context: SyncContext,
    base: Tree | None = None,
    identity: str = "disk",
) -> Tree:
    """Sync a disk into the repository; its tree."""
    done: list[Tree] = []
    writer = RepositoryWriter(
        repository, identity=identity, size=reader.size, base=base, finished=done.append
    )
    sync(reader, writer, context)
    return done[0]


def point_of(number: int, *trees: Tree, taken_ms: int = 0) -> PointManifest:
    """The manifest of a point over some disks."""
    disks = tuple(VmDisk(f"disk{n}", tree.size, "virtio-blk") for n, tree in enumerate(trees))
    return PointManifest(
        id=number.to_bytes(16, "big"),
        plan="plan",
        seq=number,
        vm=vm_of(*disks),
        consistency=Consistency.CRASH,
        note="",
        taken_ms=taken_ms or number * 3_600_000,
        previous=bytes(32),
        tool="test",
        disks=tuple(PointDisk(disk, tree) for disk, tree in zip(disks, trees, strict=True)),
    )


def content(repository: Repository, tree: Tree, base: Tree | None = None) -> bytes:
    """Every byte of a disk, as a reader reads it."""
    reader = RepositoryReader(repository, tree, "test", base)
    buffer = bytearray(reader.size)
    reader.read_into(0, memoryview(buffer))
    return bytes(buffer)


def memory_reader(data: bytes, **options: Any) -> MemoryReader:
    return MemoryReader(data, **options)


@pytest.fixture
def world() -> World:
    return World()
