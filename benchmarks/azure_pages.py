"""A full seed into a staging page blob beside the fastest plain azure-storage-blob uploader.

Both read the same sparse raw disk and put its data in pages of 4 MiB to the same Azurite, over
TLS, with the same number of connections. The uploader sends no digests and keeps no journal, no
block map, no progress and no retry.

And how many requests a round with scattered writes takes, by the least possible number.
"""

import os
import random
import statistics
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.disks import spread, write_data
from benchmarks.measure import CLOCK, Bar, Row, Sense, paired, seconds
from benchmarks.scale import Scale
from connectors.azure.page_writer import MAX_PUT_BYTES
from connectors.azure.session import AzureClients, make_credential
from connectors.azure.spec import AzureSpec
from connectors.azure.target import AzureTarget
from connectors.local import RawFileReader
from sandbox.azure.server import AzureSandbox
from sealift.blockmap import BlockMap
from sealift.endpoints import SnapshotRef, VmDisk
from sealift.journal import JournalKey, SyncJournal
from sealift.store import FileStateStore
from sealift.sync import SyncContext, sync
from sealift.units import KiB, MiB, format_rate

if TYPE_CHECKING:
    from azure.storage.blob import BlobServiceClient

CONNECTIONS = (2, 4, 8, 16)
"""Numbers of connections that the plain uploader tries."""
TURNS = 3
"""How often it tries each."""
BLOCK = 64 * KiB
CHANGES = 1000


def measure(scale: Scale, folder: Path) -> Iterator[Row]:
    """Two rows."""
    with _sandbox(folder) as box:
        yield _seed_row(box, scale, folder)
        yield _request_row(box, scale, folder)


def _seed_row(box: AzureSandbox, scale: Scale, folder: Path) -> Row:
    size, data = scale.cutover_bytes, scale.cutover_bytes // 2
    disk = write_data(folder / "seed.raw", size, spread(size, data, MAX_PUT_BYTES))
    connections = _fastest(box, disk)
    seed = Seed(disk, folder, replace(_spec(box), concurrency=connections))
    with PlainUploader(disk, box, connections) as uploader:
        pairs = paired(
            partial(seconds, seed.ours), partial(seconds, uploader.upload), 2 * scale.pairs + 1
        )  # Azurite takes half as long again or twice as long for a single run, ours or not
    seed.clients.close()
    sent = len(spread(size, data, MAX_PUT_BYTES)) * MAX_PUT_BYTES
    return Row(
        Bar(
            "page-blob",
            "speed of a full seed of a disk, half of it data, into a staging page blob, by that "
            "of the fastest plain azure-storage-blob uploader (of "
            f"{', '.join(map(str, CONNECTIONS))} connections: {connections}) with the same number "
            "of connections to the same Azurite",
            Sense.AT_LEAST,
            0.9,
        ),
        1 / pairs.ratio,
        format_rate(sent / statistics.median(pairs.ours)),
        format_rate(sent / statistics.median(pairs.peer)),
    )


def _request_row(box: AzureSandbox, scale: Scale, folder: Path) -> Row:
    """A thousand changed blocks, some of them adjacent, on top of a full disk."""
    size = min(scale.profile_bytes, 256 * MiB)
    blocks = random.Random(7).sample(range(size // BLOCK), min(CHANGES, size // BLOCK // 4))
    least = least_requests(sorted(blocks))
    made = _scattered(box, folder, size, blocks)
    return Row(
        Bar(
            "page-blob-requests",
            f"requests of any kind for a round with {len(blocks)} scattered blocks of 64 KiB that "
            "changed, from begin to the blob snapshot, by the least number of Put Page requests "
            "of up to 4 MiB that can bring them",
            Sense.AT_MOST,
            1.1,
        ),
        made / least,
        f"{made} requests",
        f"{least} requests",
    )


def least_requests(blocks: list[int]) -> int:
    """Put Page requests of at most 4 MiB that cover these blocks of 64 KiB and no other."""
    runs: list[int] = []
    previous = -2
    for block in blocks:
        if block == previous + 1:
            runs[-1] += 1
        else:
            runs.append(1)
        previous = block
    return sum(-(-run * BLOCK // MAX_PUT_BYTES) for run in runs)


def _scattered(box: AzureSandbox, folder: Path, size: int, blocks: list[int]) -> int:
    """How many requests the second of two rounds takes."""
    spec = replace(_spec(box), blob_endpoint=box.blob_endpoint, concurrency=4)
    clients = AzureClients(spec)
    target = AzureTarget(clients.spec, f"bench-{folder.name}-scattered", CLOCK, clients=clients)
    disk = write_data(folder / "before.raw", size, [(0, size)])
    parent, base = _round(target, disk, 1, None, None)
    with disk.open("r+b") as file:
        for block in blocks:
            file.seek(block * BLOCK)
            file.write(os.urandom(BLOCK))
    box.requests.clear()
    _round(target, disk, 2, parent, base)
    clients.close()
    disk.unlink()
    return len(box.requests.all())


def _round(
    target: AzureTarget, disk: Path, seq: int, parent: SnapshotRef | None, base: BlockMap | None
) -> tuple[SnapshotRef, BlockMap]:
    ref = target.begin_snapshot(seq, VmDisk("disk0", disk.stat().st_size, "virtio"), parent)
    reader = RawFileReader(disk)
    fresh = BlockMap(ref.size // BLOCK, BLOCK) if base is None else base
    report = sync(reader, target.writer(ref, parent), SyncContext(CLOCK), base=fresh)
    reader.close()
    return ref, report.blocks


def _spec(box: AzureSandbox) -> AzureSpec:
    """A target as a plan without further settings makes it."""
    return AzureSpec(
        subscription_id=box.subscription_id,
        resource_group=box.resource_group,
        storage_account=box.storage_account,
        container=box.container,
        subnet_id=box.subnet_id,
        endpoint=box.endpoint,
        blob_endpoint=box.direct_blob_endpoint,
    )


@contextmanager
def _sandbox(folder: Path) -> Iterator[AzureSandbox]:
    with AzureSandbox(folder / "azure") as box:
        os.environ.update(box.environment())
        yield box


@dataclass
class Seed:
    """The disk, sent by Sealift."""

    disk: Path
    folder: Path
    spec: AzureSpec

    def __post_init__(self) -> None:
        self._numbers = count(1)
        self.clients = AzureClients(self.spec)

    def ours(self) -> None:
        """Through ``sync`` with journal and progress, from the blob's making to its snapshot."""
        number = next(self._numbers)
        target = AzureTarget(
            self.spec, f"bench-{self.folder.name}-{number}", CLOCK, clients=self.clients
        )
        size = self.disk.stat().st_size
        ref = target.begin_snapshot(1, VmDisk("disk0", size, "virtio"), None)
        writer, reader = target.writer(ref, None), RawFileReader(self.disk)
        key = JournalKey.of(reader, writer)
        journal = SyncJournal(FileStateStore(self.folder / f"state{number}"), "journal", key, CLOCK)
        sync(reader, writer, SyncContext(CLOCK), journal=journal)
        journal.close()
        reader.close()


class PlainUploader:
    """Only what the documentation of azure-storage-blob shows: create, upload pages.

    Args:
        disk: a sparse raw file.
        box: where to.
        connections: threads, each with one.
    """

    def __init__(self, disk: Path, box: AzureSandbox, connections: int) -> None:
        self._disk, self._container = disk, box.container
        self._size = disk.stat().st_size
        self._numbers = count(1)
        self._name = f"plain-{connections}"
        self._service = _plain_client(box)
        self._pool = ThreadPoolExecutor(connections)

    def upload(self) -> None:
        """The whole disk into a page blob of its own."""
        name = f"{self._name}-{next(self._numbers)}"
        blob = self._service.get_blob_client(self._container, name)
        blob.create_page_blob(self._size)
        fd = os.open(self._disk, os.O_RDONLY)
        try:

            def put(offset: int) -> None:
                data = os.pread(fd, MAX_PUT_BYTES, offset)
                blob.upload_page(data, offset, len(data))

            list(self._pool.map(put, _allocated(fd, self._size)))
        finally:
            os.close(fd)

    def __enter__(self) -> "PlainUploader":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        self._service.close()


def _plain_client(box: AzureSandbox) -> "BlobServiceClient":
    from azure.storage.blob import BlobServiceClient

    return BlobServiceClient(box.direct_blob_endpoint, credential=make_credential())


def _fastest(box: AzureSandbox, disk: Path) -> int:
    """Of ``CONNECTIONS``, the number with which the uploader is fastest here and now.

    In turns, after one upload that nobody counts: a server that just began is slow, whoever asks.
    """
    with ExitStack() as stack:
        uploaders = {n: stack.enter_context(PlainUploader(disk, box, n)) for n in CONNECTIONS}
        uploaders[CONNECTIONS[0]].upload()
        turns = [{n: seconds(u.upload) for n, u in uploaders.items()} for _ in range(TURNS)]
    return min(CONNECTIONS, key=lambda n: statistics.median(turn[n] for turn in turns))


def _allocated(fd: int, size: int) -> Iterator[int]:
    """Offsets of the pieces of 4 MiB that are not holes."""
    at = 0
    while at < size:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            return
        end = os.lseek(fd, at, os.SEEK_HOLE)
        yield from range(at // MAX_PUT_BYTES * MAX_PUT_BYTES, end, MAX_PUT_BYTES)
        at = end
