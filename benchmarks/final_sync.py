"""The final sync of a cutover beside reading, sending and completing the same bytes alone.

A real QEMU and the offline AWS of the sandbox; the whole cutover runs. Time counts from the
fencing of the source to the moment before the read-back, so that everything is in it that the
final sync needs: the point, the bitmaps, the record, the snapshot and its completion.
"""

import hashlib
import os
import statistics
from base64 import b64encode
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import boto3

from benchmarks.disks import spread, write_data
from benchmarks.measure import CLOCK, Bar, Row, Sense, paired, seconds
from benchmarks.scale import Scale
from benchmarks.vm import BenchVm, raw_disk
from connectors.aws.spec import AwsSpec
from connectors.aws.target import AwsTarget
from sandbox.aws.network import default_network
from sandbox.aws.process import SandboxProcess
from sealift.convergence import ConvergencePolicy, OnDivergence
from sealift.migration import Step
from sealift.migrator import Migrator
from sealift.ports import MigrationPolicy, Ports, StopPolicy
from sealift.progress import Event, Noted
from sealift.store import FileStateStore
from sealift.sync import SyncContext
from sealift.units import GiB, KiB

ALLOWED_SECONDS = 2.0
BLOCK = 512 * KiB
THREADS = 8
BAR = Bar(
    "final-sync",
    "what the final sync of a cutover takes longer than reading, sending and completing the "
    f"same blocks alone (plain boto3, {THREADS} threads, the same offline AWS), by 2 s",
    Sense.AT_MOST,
    1.0,
)


def measure(scale: Scale, folder: Path) -> Iterator[Row]:
    """One row; every repetition is a migration of its own."""
    with SandboxProcess(folder / "aws") as sandbox:
        cloud = Cloud.of(sandbox.environment())
        image = write_data(folder / "disk.raw", scale.cutover_bytes, [(0, 2 * scale.dirty_bytes)])
        dirty = spread(scale.cutover_bytes, scale.dirty_bytes, BLOCK)
        numbers = iter(range(1, 200))
        pairs = paired(
            lambda: _cutover(cloud, image, folder, next(numbers), dirty),
            partial(seconds, partial(_alone, cloud, image, dirty)),
            scale.few_pairs,
        )
    above = statistics.median(a - b for a, b in zip(pairs.ours, pairs.peer, strict=True))
    mine, theirs = statistics.median(pairs.ours), statistics.median(pairs.peer)
    yield Row(BAR, above / ALLOWED_SECONDS, f"{mine:.2f} s", f"{theirs:.2f} s alone + 2.00 s")


@dataclass(frozen=True)
class Cloud:
    """The offline account."""

    spec: AwsSpec
    ebs: Any
    ec2: Any

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Cloud":
        """Clients and a plan for a sandbox's environment."""
        os.environ |= environment
        subnet, group = default_network(environment)
        spec = AwsSpec(subnet, (group,), region=environment["AWS_REGION"])
        session = boto3.Session()  # the default one may know another account already
        return cls(spec, session.client("ebs"), session.client("ec2"))


def _cutover(
    cloud: Cloud, image: Path, parent: Path, number: int, dirty: list[tuple[int, int]]
) -> float:
    """Seconds of the final sync of a new migration; ``number`` makes its writes differ."""
    folder = parent / f"m{number}"
    folder.mkdir()
    moments: dict[str, float] = {}

    def note(event: Event) -> None:
        step = dict(event.facts).get("step") if isinstance(event, Noted) else None
        moments.setdefault(str(step), CLOCK.monotonic())

    with ExitStack() as stack:
        vm = stack.enter_context(BenchVm(folder, raw_disk(image)))
        target = AwsTarget(cloud.spec, folder.name, CLOCK)
        stack.callback(target.close)
        policy = MigrationPolicy(
            convergence=ConvergencePolicy(600, on_divergence=OnDivergence.CONTINUE),
            stop=StopPolicy(shutdown=False),
            health_interval_seconds=0.2,
        )
        ports = Ports(
            vm.hypervisor(folder.name),
            target,
            FileStateStore(folder / "state"),
            SyncContext(CLOCK, sink=note),
            policy,
        )
        migrator = Migrator.open(ports, folder.name)
        migrator.replicate()
        vm.write(dirty, number)
        done = migrator.cutover()
    sent = done.history[-1].sent_bytes
    if sent != sum(length for _, length in dirty):
        raise RuntimeError(f"{sent} bytes were sent for {len(dirty)} changed blocks")
    return moments[Step.VERIFY.value] - moments[Step.FENCE.value]


def _alone(cloud: Cloud, image: Path, dirty: list[tuple[int, int]]) -> None:
    """Read, send, complete, wait until completed: nothing that makes a migration of it."""
    size = -(-image.stat().st_size // GiB)
    snapshot_id = cloud.ebs.start_snapshot(VolumeSize=size)["SnapshotId"]
    fd = os.open(image, os.O_RDONLY)
    with ThreadPoolExecutor(THREADS) as pool:
        digests = list(pool.map(partial(_put, cloud.ebs, fd, snapshot_id), dirty))
    os.close(fd)
    cloud.ebs.complete_snapshot(
        SnapshotId=snapshot_id,
        ChangedBlocksCount=len(digests),
        Checksum=b64encode(hashlib.sha256(b"".join(digests)).digest()).decode(),
        ChecksumAlgorithm="SHA256",
        ChecksumAggregationMethod="LINEAR",
    )
    waiter = cloud.ec2.get_waiter("snapshot_completed")
    waiter.wait(SnapshotIds=[snapshot_id], WaiterConfig={"Delay": 1})


def _put(ebs: Any, fd: int, snapshot_id: str, part: tuple[int, int]) -> bytes:
    offset, length = part
    data = os.pread(fd, length, offset)
    digest = hashlib.sha256(data).digest()
    ebs.put_snapshot_block(
        SnapshotId=snapshot_id,
        BlockIndex=offset // BLOCK,
        BlockData=data,
        DataLength=length,
        Checksum=b64encode(digest).decode(),
        ChecksumAlgorithm="SHA256",
    )
    return digest
