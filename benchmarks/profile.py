"""Where the time of a sync goes: processor time and waiting by stage, over all workers.

Every stage is timed inside its thread, with the thread's processor time beside the wall
clock. What a stage takes longer than its processor time it waits: for disk or network where
it talks to one, else for a core or for the interpreter's lock.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import sealift.sync as engine
from benchmarks.accepting import accepting
from benchmarks.disks import CountingWriter, write_data
from benchmarks.ebs_seed import BLOCK, Seed, clients
from benchmarks.measure import CLOCK, seconds
from benchmarks.nbd_read import CONNECTIONS, SERVERS
from benchmarks.scale import Scale
from connectors.aws.ebs_writer import EbsSnapshotWriter
from connectors.local import RawFileReader
from connectors.nbd import NbdReader, UnixAddress
from sealift.journal import SyncJournal
from sealift.progress import DiskMeter
from sealift.sync import SyncContext, sync
from sealift.units import MiB

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Stage:
    """One line of a profile; milliseconds for each MiB moved, over all threads together.

    Attributes:
        name: what is done.
        cpu: processor time.
        waited: wall clock beyond it.
        share: of the processor time of the process.
    """

    name: str
    cpu: float
    waited: float
    share: float


@dataclass(frozen=True, slots=True)
class Profile:
    """The stages of one way through the engine."""

    title: str
    stages: tuple[Stage, ...]


@dataclass
class _Timers:
    spent: dict[str, tuple[float, float]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    inner: threading.local = field(default_factory=threading.local)

    def timed(self, name: str, work: Callable[P, R]) -> Callable[P, R]:
        """``work``, with its time booked; a stage within a stage counts for the inner one."""

        def run(*args: P.args, **options: P.kwargs) -> R:
            outer = getattr(self.inner, "spent", (0.0, 0.0))
            self.inner.spent = (0.0, 0.0)
            cpu, wall = time.thread_time(), CLOCK.monotonic()
            try:
                return work(*args, **options)
            finally:
                cpu, wall = time.thread_time() - cpu, CLOCK.monotonic() - wall
                below = self.inner.spent
                self.inner.spent = (outer[0] + cpu, outer[1] + wall)
                self._book(name, cpu - below[0], wall - below[1])

        return run

    def _book(self, name: str, cpu: float, wall: float) -> None:
        with self.lock:
            known = self.spent.get(name, (0.0, 0.0))
            self.spent[name] = (known[0] + cpu, known[1] + wall)


@contextmanager
def _instrumented(points: list[tuple[str, Any, str]], timers: _Timers) -> Iterator[None]:
    """Time (stage, owner, attribute) for the length of the block."""
    before = [(owner, name, getattr(owner, name)) for _, owner, name in points]
    for stage, owner, name in points:
        setattr(owner, name, timers.timed(stage, getattr(owner, name)))
    try:
        yield
    finally:
        for owner, name, original in before:
            setattr(owner, name, original)


_ENGINE = [
    ("zero test", engine, "is_zero"),
    ("hash (SHA-256)", engine._Sync, "_block_digests"),
    ("journal and block map", SyncJournal, "record"),
    ("progress", DiskMeter, "add"),
]


def profiles(scale: Scale, folder: Path) -> Iterator[Profile]:
    """Of reading from an NBD server, and of a seed into the EBS writer."""
    size = scale.profile_bytes
    raw = write_data(folder / "profile.raw", size, [(0, size)])
    yield _nbd(raw, folder)
    with accepting() as endpoint:
        seed = Seed(raw, folder, clients(endpoint))
        seed.ours()  # opens the connections
        session = seed.clients.ebs._endpoint.http_session  # type: ignore[attr-defined]
        points = [
            ("read (file)", RawFileReader, "read_into"),
            ("SDK: check, sign, parse", EbsSnapshotWriter, "write"),
            ("HTTP: send and answer", session, "send"),
            *_ENGINE,
        ]
        title = f"Full seed of {size // BLOCK} blocks into the EBS writer"
        yield _profile(title, points, seed.ours, size)


def _nbd(raw: Path, folder: Path) -> Profile:
    size, where = raw.stat().st_size, folder / "profile.sock"

    def read() -> None:
        reader = NbdReader(UnixAddress(where), identity="bench", connections=CONNECTIONS)
        sync(reader, CountingWriter(size, CONNECTIONS), SyncContext(CLOCK))
        reader.close()

    points = [
        ("read (NBD)", NbdReader, "read_into"),
        ("send (counts only)", CountingWriter, "write"),
        *_ENGINE,
    ]
    with SERVERS[0].start(where, raw):
        read()
        title = f"Reading {size // MiB} MiB from {SERVERS[0].name} into a writer that counts"
        return _profile(title, points, read, size)


def _profile(
    title: str, points: list[tuple[str, Any, str]], work: Callable[[], None], size: int
) -> Profile:
    timers = _Timers()
    before = time.process_time()
    with _instrumented(points, timers):
        took = seconds(work)
    total = time.process_time() - before
    rest = total - sum(cpu for cpu, _ in timers.spent.values())
    lines = [(name, cpu, wall - cpu) for name, (cpu, wall) in timers.spent.items()]
    lines.sort(key=lambda line: -line[1])
    lines.append(("the rest: plan, queue, workers, timers", rest, 0.0))
    scale = 1000 * MiB / size
    stages = tuple(Stage(n, cpu * scale, max(0.0, w) * scale, cpu / total) for n, cpu, w in lines)
    speed = f"{size / MiB / took:.0f} MiB/s, {total / took:.2f} cores busy"
    return Profile(f"{title}: {speed}", stages)
