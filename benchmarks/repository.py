"""A sealed repository beside restic and borg: the same image, each into a folder of its own.

All three encrypt and compress. Each round seeds three fresh repositories, changes one percent of
the image in granules of 64 KiB, makes the second point, and restores it. Sealift makes a third
point of as many changes, for which it has to read everything as the other two always do.
"""

import os
import random
import shutil
import statistics
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Protocol

import zstandard

from benchmarks.backup_image import (
    GRANULE,
    Tracked,
    granules_with_data,
    make_image,
    scatter_changes,
)
from benchmarks.measure import CLOCK, Bar, Row, Sense, seconds
from benchmarks.scale import Scale
from benchmarks.sealing import LIMIT, Parts, cpu
from connectors.local import RawFileReader, RawFileWriter
from connectors.local.object_folder import FolderObjectStore
from sealift.disk import DiskReader
from sealift.endpoints import Consistency, Firmware, SourceVm, VmDisk
from sealift.journal import JournalKey, SyncJournal
from sealift.repository.points import PointDisk, PointManifest
from sealift.repository.reader import RepositoryReader
from sealift.repository.session import Repository
from sealift.repository.tree import Tree
from sealift.repository.writer import RepositoryWriter
from sealift.sealing.keys import KeyRing, RootKey
from sealift.store import FileStateStore
from sealift.sync import SyncContext, sync
from sealift.units import MiB, format_size

CHANGED_SHARE = 0.01
_SECRET = {"RESTIC_PASSWORD": "bench", "BORG_PASSPHRASE": "bench"}


class Peer(Protocol):
    """A backup tool with one repository."""

    def save(self) -> None:
        """One more backup of the image."""

    def restore(self, where: Path) -> None:
        """The newest backup, into an empty folder."""

    @property
    def stored(self) -> int:
        """Bytes of the repository."""


@dataclass
class Restic:
    """restic with compression, which is what its repositories have by default."""

    image: Path
    folder: Path

    def __post_init__(self) -> None:
        self._run("init", "--repository-version", "2")

    def save(self) -> None:
        """See ``Peer.save``."""
        self._run("backup", str(self.image))

    def restore(self, where: Path) -> None:
        """See ``Peer.restore``."""
        self._run("restore", "latest", "--target", str(where))

    @property
    def stored(self) -> int:
        """See ``Peer.stored``."""
        return size_of(self.folder / "restic")

    def _run(self, *words: str) -> None:
        places = ["--repo", str(self.folder / "restic"), "--cache-dir", str(self.folder / "rcache")]
        _quiet(["restic", "--quiet", *places, *words], self.folder)


@dataclass
class Borg:
    """borg with zstd, which it is fastest and smallest with."""

    image: Path
    folder: Path
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self._run(self.folder, "init", "-e", "repokey-blake2", self._repository)

    def save(self) -> None:
        """See ``Peer.save``."""
        self._name = f"{self._repository}::{next(self._numbers)}"
        self._run(self.image.parent, "create", "-C", "zstd,1", self._name, self.image.name)

    def restore(self, where: Path) -> None:
        """See ``Peer.restore``."""
        self._run(where, "extract", "--sparse", self._name)

    @property
    def stored(self) -> int:
        """See ``Peer.stored``."""
        return size_of(self.folder / "borg")

    @property
    def _repository(self) -> str:
        return str(self.folder / "borg")

    def _run(self, where: Path, *words: str) -> None:
        _quiet(["borg", *words], where, BORG_BASE_DIR=str(self.folder / "borg-base"))


class Ours:
    """A repository in a folder, with journal and local index as a replication has them."""

    def __init__(
        self,
        image: Path,
        folder: Path,
        ring: KeyRing | None = None,
        store: FolderObjectStore | None = None,
    ) -> None:
        self._image, self._folder = image, folder
        self._store = store or FolderObjectStore.open(folder / "sealift", create=True)
        there = (folder / "sealift" / "commits").exists()
        self._state = FileStateStore(folder / "state")
        ring = ring or KeyRing(RootKey.generate(), os.urandom(16), 1)
        begin = Repository.open if there else Repository.init
        self.repository = begin(self._store, ring, self._state, CLOCK, folder / "cache")
        refs = self.repository.head.commit.points
        self._points = [self.repository.manifest(ref) for ref in refs]

    @property
    def stored(self) -> int:
        """Bytes of the repository."""
        return size_of(self._folder / "sealift")

    def save(self, reader: DiskReader) -> None:
        """One more point, on the last one."""
        seq = len(self._points) + 1
        base = self._points[-1].disks[0].tree if self._points else None
        self.publish(reader.size, self._synced(seq, reader, base))

    def publish(self, size: int, tree: Tree) -> None:
        """Make a point of a tree."""
        seq = len(self._points) + 1
        base = self._points[-1].disks[0].tree if self._points else None
        disk = VmDisk("vda", size, "virtio-blk")
        vm = SourceVm("bench", "bench", "boot", Firmware.BIOS, "x86_64", 1, MiB, (disk,))
        now = int(CLOCK.now().timestamp() * 1000)
        point = PointManifest(
            id=seq.to_bytes(16, "big"),
            plan="bench",
            seq=seq,
            vm=vm,
            consistency=Consistency.CRASH,
            note="",
            taken_ms=now,
            previous=bytes(32),
            tool="bench",
            disks=(PointDisk(disk, tree),),
        )
        bases = {"vda": (self._points[-1].id, base)} if base is not None else {}
        self.repository.publish(point, bases)
        self._points.append(point)

    def _synced(self, seq: int, reader: DiskReader, base: Tree | None) -> Tree:
        done: list[Tree] = []
        writer = RepositoryWriter(
            self.repository, identity=f"p{seq}", size=reader.size, base=base, finished=done.append
        )
        key = JournalKey.of(reader, writer)
        with closing(SyncJournal(self._state, f"journal-{seq}", key, CLOCK)) as journal:
            sync(reader, writer, SyncContext(CLOCK), journal=journal)
        return done[0]

    def reader(self) -> RepositoryReader:
        """The disk of the newest point."""
        return RepositoryReader(self.repository, self._points[-1].disks[0].tree, "newest")

    def restore(self, where: Path) -> None:
        """The newest point, into an empty folder."""
        reader = self.reader()
        with closing(RawFileWriter.create(where / "restored.raw", reader.size)) as writer:
            sync(reader, writer, SyncContext(CLOCK))

    def close(self) -> None:
        """Free what is open."""
        self.repository.close()
        self._store.close()


@dataclass(frozen=True, slots=True)
class Round:
    """What one round took and stored; of peers the better one each time.

    ``busy`` is the seed's processor time beside that of its parts.
    """

    seed: tuple[float, float]
    busy: tuple[float, float]
    change: tuple[float, float]
    compare: tuple[float, float]
    restore: tuple[float, float]
    stored: tuple[int, int]
    added: tuple[int, int]
    compressed: int


def measure(scale: Scale, folder: Path) -> Iterator[Row]:
    """A row for each bar."""
    image = make_image(folder / "image.raw", scale.backup_bytes, scale.backup_data_bytes)
    rng = random.Random(2)
    rounds = []
    for number in range(scale.backup_rounds):
        where = folder / f"round{number}"
        where.mkdir()
        rounds.append(one_round(image, where, rng))
        shutil.rmtree(where)
    yield from _rows(rounds)


def one_round(image: Path, folder: Path, rng: random.Random) -> Round:
    """Seeds, second points, restores, and a third point of ours."""
    peers: list[Peer] = [Restic(image, folder), Borg(image, folder)]
    ours = Ours(image, folder)
    busy = [0.0]

    def seeding() -> None:
        busy[0] = cpu(lambda: ours.save(RawFileReader(image)))

    seed = _settled(seeding), _best(p.save for p in peers)
    busy.append(cpu(partial(_parts_alone, image, folder / "parts")))
    before, stored = [p.stored for p in peers], ours.stored
    dirty = scatter_changes(image, CHANGED_SHARE, rng)
    change = _settled(lambda: ours.save(Tracked(image, dirty))), _best(p.save for p in peers)
    added = ours.stored - stored, min(p.stored - b for p, b in zip(peers, before, strict=True))
    restores = [_restoring(folder, name, p.restore) for name, p in zip("rb", peers, strict=True)]
    restore = _settled(_restoring(folder, "o", ours.restore)), _best(restores)
    compressed = _compressed(image, dirty)
    scatter_changes(image, CHANGED_SHARE, rng)
    compare = _settled(lambda: ours.save(RawFileReader(image))), change[1]
    ours.close()
    return Round(
        seed, (busy[0], busy[1]), change, compare, restore, (stored, min(before)), added, compressed
    )


def _best(works: Iterable[Callable[[], None]]) -> float:
    return min(_settled(work) for work in works)


def _settled(work: Callable[[], None]) -> float:
    """Seconds of ``work``, which does not wait for the disk of whoever came before."""
    os.sync()
    return seconds(work)


def _restoring(folder: Path, name: str, restore: Callable[[Path], None]) -> Callable[[], None]:
    def work() -> None:
        where = folder / f"restored-{name}"
        where.mkdir()
        restore(where)

    return work


def _compressed(image: Path, dirty: frozenset[int]) -> int:
    """Bytes of the changed granules, each compressed alone."""
    compressor, total = zstandard.ZstdCompressor(level=1), 0
    with image.open("rb") as file:
        for granule in dirty:
            file.seek(granule * GRANULE)
            total += len(compressor.compress(file.read(GRANULE)))
    return total


def _parts_alone(image: Path, where: Path) -> None:
    """What a seed cannot do without: read, hash, compress, encrypt, all of it back, write."""
    parts, zeroes = Parts(), bytes(GRANULE)
    buffer = memoryview(bytearray(GRANULE))
    with image.open("rb", buffering=0) as source, where.open("wb", buffering=0) as target:
        for granule in granules_with_data(image):
            source.seek(granule * GRANULE)
            source.readinto(buffer)
            if buffer != zeroes:
                target.write(parts.seal(buffer))
    where.unlink()


def _rows(rounds: Sequence[Round]) -> Iterator[Row]:
    better = "the faster of restic and borg"
    yield _faster("repository-seed", f"time of {better} for a first backup", 3, rounds, "seed")
    yield _busy(rounds)
    yield _smaller(
        "repository-stored",
        "bytes stored for it by those of the smaller of restic and borg",
        1.05,
        [r.stored for r in rounds],
    )
    what = f"time of {better} for the next one after 1 % scattered change"
    yield _faster("repository-change", f"{what}, with a change list", 20, rounds, "change")
    yield _faster("repository-compare", f"{what}, without one", 2, rounds, "compare")
    yield _smaller(
        "repository-added",
        "bytes added by it to those of the smaller",
        0.1,
        [r.added for r in rounds],
    )
    yield _smaller(
        "repository-granules",
        "bytes added by it by the changed granules of 64 KiB, each compressed alone",
        1.5,
        [(r.added[0], r.compressed) for r in rounds],
    )
    yield _faster("repository-restore", f"time of {better} for a restore", 2.5, rounds, "restore")


def _busy(rounds: Sequence[Round]) -> Row:
    bar = Bar(
        "repository-cpu",
        "processor time of a first backup, by that of reading, hashing, zstd and AES-256-GCM both "
        "ways and writing, each called alone on the same chunks",
        Sense.AT_MOST,
        LIMIT,
    )
    ratio = statistics.median(mine / parts for mine, parts in (r.busy for r in rounds))
    mine, parts = (statistics.median(r.busy[n] for r in rounds) for n in range(2))
    return Row(bar, ratio, f"{mine:.2f} s", f"{parts:.2f} s")


def _faster(name: str, what: str, limit: float, rounds: Sequence[Round], phase: str) -> Row:
    pairs: list[tuple[float, float]] = [getattr(r, phase) for r in rounds]
    ratio = statistics.median(theirs / mine for mine, theirs in pairs)
    mine, theirs = (statistics.median(p[n] for p in pairs) for n in range(2))
    bar = Bar(name, f"{what}, by ours", Sense.AT_LEAST, limit)
    return Row(bar, ratio, f"{mine:.2f} s", f"{theirs:.2f} s")


def _smaller(name: str, what: str, limit: float, pairs: Sequence[tuple[int, int]]) -> Row:
    ratio = statistics.median(mine / theirs for mine, theirs in pairs)
    mine, theirs = (round(statistics.median(p[n] for p in pairs)) for n in range(2))
    bar = Bar(name, what, Sense.AT_MOST, limit)
    return Row(bar, ratio, format_size(mine), format_size(theirs))


def size_of(folder: Path) -> int:
    """Bytes of all files in it."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def _quiet(command: Sequence[str], where: Path, **more: str) -> None:
    environment = {**os.environ, **_SECRET, **more}
    subprocess.run(command, cwd=where, env=environment, check=True, capture_output=True)
