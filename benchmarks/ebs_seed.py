"""A full seed into the real EBS writer beside the fastest plain boto3 uploader.

Both read the same sparse raw disk, hash every block of it that holds data and put it with
boto3 to a server that only accepts. The uploader keeps no journal, no block
map, no progress and no retry, and may use as many processes and threads as are best for it,
all of them started beforehand; Sealift uses what a plan has by default.
"""

import hashlib
import os
import statistics
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

from benchmarks.accepting import accepting
from benchmarks.disks import spread, write_data
from benchmarks.measure import CLOCK, Bar, Row, Sense, paired, seconds
from benchmarks.scale import Scale
from connectors.aws.session import AwsClients
from connectors.aws.spec import AwsSpec
from connectors.aws.target import AwsTarget
from connectors.local import RawFileReader
from sealift.endpoints import VmDisk
from sealift.journal import JournalKey, SyncJournal
from sealift.store import FileStateStore
from sealift.sync import SyncContext, sync
from sealift.units import GiB, KiB, MiB, format_rate

if TYPE_CHECKING:
    from mypy_boto3_ebs import EBSClient

BLOCK = 512 * KiB
DATA_SHARE = 0.3
CREWS = ((1, 4), (1, 8), (1, 16), (1, 32), (2, 4), (2, 8), (2, 16))
"""(processes, threads of each) that the plain uploader tries."""


def measure(scale: Scale, folder: Path) -> Iterator[Row]:
    """One row."""
    data = int(scale.seed_bytes * DATA_SHARE)
    disk = write_data(
        folder / "seed.raw", scale.seed_bytes, spread(scale.seed_bytes, data, 4 * MiB)
    )
    with accepting() as endpoint:
        seed = Seed(disk, folder, clients(endpoint))
        crew, uploader = fastest(disk, endpoint)
        with uploader:
            pairs = paired(
                partial(seconds, seed.ours), partial(seconds, uploader.upload), scale.few_pairs
            )
    disk.unlink()
    sent = sum(1 for _ in data_blocks(disk_size=scale.seed_bytes, data=data)) * BLOCK
    yield Row(
        Bar(
            "ebs-seed",
            "time of a full seed of a disk with 30 % data into the EBS writer, by the time of "
            f"the fastest plain boto3 uploader (of {CREWS} processes and threads: {crew}) into "
            "the same server that only accepts",
            Sense.AT_MOST,
            1.3,
        ),
        pairs.ratio,
        format_rate(sent / statistics.median(pairs.ours)),
        format_rate(sent / statistics.median(pairs.peer)),
    )


def data_blocks(disk_size: int, data: int) -> Iterator[int]:
    """Indexes of the blocks that ``measure`` fills."""
    for start, length in spread(disk_size, data, 4 * MiB):
        yield from range(start // BLOCK, (start + length) // BLOCK)


def spec(endpoint: str) -> AwsSpec:
    """A target as a plan without further settings makes it."""
    os.environ |= {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}
    return AwsSpec("subnet-1", ("sg-1",), region="us-east-1", endpoint=endpoint)


def clients(endpoint: str) -> AwsClients:
    """Sealift's own SDK clients for it."""
    return AwsClients(spec(endpoint))


@dataclass
class Seed:
    """The same disk, sent in two ways."""

    disk: Path
    folder: Path
    clients: AwsClients

    def __post_init__(self) -> None:
        self._numbers = count(1)
        self._size = self.disk.stat().st_size

    def ours(self) -> None:
        """Through ``sync`` with journal and progress, from StartSnapshot to completed."""
        number = next(self._numbers)
        name = f"bench-{self.folder.name}-{number}"
        plan = spec(self.clients.spec.endpoint or "")
        target = AwsTarget(plan, name, CLOCK, clients=self.clients)
        ref = target.begin_snapshot(1, VmDisk("disk0", self._size, "virtio"), None)
        writer, reader = target.writer(ref, None), RawFileReader(self.disk)
        key = JournalKey.of(reader, writer)
        journal = SyncJournal(FileStateStore(self.folder / f"state{number}"), "journal", key, CLOCK)
        sync(reader, writer, SyncContext(CLOCK), journal=journal)
        journal.close()
        reader.close()


class PlainUploader:
    """Only what AWS's documentation asks for: start, put, complete.

    Args:
        disk: a sparse raw file.
        endpoint: of the server.
        processes: each with a client of its own; started at once.
        threads: of each.
    """

    def __init__(self, disk: Path, endpoint: str, processes: int, threads: int) -> None:
        self._disk, self._processes, self._threads = disk, processes, threads
        self._size = disk.stat().st_size
        self._ebs = _client(endpoint, threads)
        self._pool = ProcessPoolExecutor(
            processes, get_context("spawn"), initializer=_open_here, initargs=(endpoint, threads)
        )
        list(self._pool.map(_put_all, [(disk, "", [], threads)] * 4 * processes))

    def upload(self) -> None:
        """The whole disk into a snapshot of its own."""
        snapshot_id = self._ebs.start_snapshot(VolumeSize=-(-self._size // GiB))["SnapshotId"]
        fd = os.open(self._disk, os.O_RDONLY)
        indexes = list(_allocated(fd, self._size))
        os.close(fd)
        parts = [indexes[n :: self._processes] for n in range(self._processes)]
        jobs = [(self._disk, snapshot_id, part, self._threads) for part in parts]
        put = sorted(pair for found in self._pool.map(_put_all, jobs) for pair in found)
        total = hashlib.sha256(b"".join(digest for _, digest in put)).digest()
        self._ebs.complete_snapshot(
            SnapshotId=snapshot_id,
            ChangedBlocksCount=len(put),
            Checksum=b64encode(total).decode(),
            ChecksumAlgorithm="SHA256",
            ChecksumAggregationMethod="LINEAR",
        )

    def __enter__(self) -> "PlainUploader":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()


def fastest(disk: Path, endpoint: str) -> tuple[tuple[int, int], PlainUploader]:
    """Of ``CREWS``, the one with which the uploader is fastest here and now."""
    found = {}
    for crew in CREWS:
        with PlainUploader(disk, endpoint, *crew) as uploader:
            uploader.upload()  # opens the connections
            found[crew] = statistics.median(seconds(uploader.upload) for _ in range(2))
    best = min(CREWS, key=lambda crew: found[crew])
    return best, PlainUploader(disk, endpoint, *best)


def _client(endpoint: str, threads: int) -> "EBSClient":
    return boto3.client(
        "ebs",
        region_name="us-east-1",
        endpoint_url=endpoint,
        config=Config(max_pool_connections=threads),
    )


_opened: "list[EBSClient]" = []
"""The client of this process, where it is one of an uploader's."""


def _open_here(endpoint: str, threads: int) -> None:
    _opened.append(_client(endpoint, threads))


def _put_all(job: tuple[Path, str, list[int], int]) -> list[tuple[int, bytes]]:
    disk, snapshot_id, indexes, threads = job
    fd = os.open(disk, os.O_RDONLY)
    try:
        with ThreadPoolExecutor(threads) as pool:
            put = partial(_put, _opened[0], fd, snapshot_id)
            return list(zip(indexes, pool.map(put, indexes), strict=True))
    finally:
        os.close(fd)


def _allocated(fd: int, size: int) -> Iterator[int]:
    """Indexes of blocks that are not holes."""
    at = 0
    while at < size:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            return
        end = os.lseek(fd, at, os.SEEK_HOLE)
        yield from range(at // BLOCK, -(-end // BLOCK))
        at = end


def _put(ebs: "EBSClient", fd: int, snapshot_id: str, index: int) -> bytes:
    data = os.pread(fd, BLOCK, index * BLOCK)
    digest = hashlib.sha256(data).digest()
    ebs.put_snapshot_block(
        SnapshotId=snapshot_id,
        BlockIndex=index,
        BlockData=data,
        DataLength=BLOCK,
        Checksum=b64encode(digest).decode(),
        ChecksumAlgorithm="SHA256",
    )
    return digest
