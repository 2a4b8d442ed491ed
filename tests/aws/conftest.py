"""An offline AWS account per test, on a clock that only sleeping moves."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from connectors.aws.block_lists import BLOCK_BYTES
from connectors.aws.session import AwsClients
from connectors.aws.spec import AwsSpec
from connectors.aws.target import AwsTarget
from sandbox.aws import AwsSandbox, Fault, FaultKind, Rules
from sealift.endpoints import Firmware, SnapshotRef, SourceVm, VmDisk
from sealift.retry import Retrier, RetryPolicy
from sealift.testing.clock import VirtualClock
from sealift.units import GiB, MiB

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

ROOT = VmDisk("vda", 700 * MiB, "virtio-blk", boot_index=0)
DATA = VmDisk("vdb", 10 * MiB + 512, "virtio-blk")
INSTANCE_TYPE = "m5.large"


def block(seed: str) -> bytes:
    """A block of 512 KiB that is unlike every other seed's."""
    return hashlib.shake_256(seed.encode()).digest(32) * (BLOCK_BYTES // 32)


ZERO = bytes(BLOCK_BYTES)


def put(writer: Any, blocks: Mapping[int, bytes]) -> list[tuple[int, bytes]]:
    """Write blocks one by one; what ``commit`` takes."""
    done = []
    for index, data in sorted(blocks.items()):
        digest = hashlib.sha256(data).digest()
        writer.write(index * BLOCK_BYTES, memoryview(data), [digest])
        done.append((index, digest))
    return done


@dataclass(frozen=True)
class Account:
    """One sandbox with what a plan names in it."""

    box: AwsSandbox
    clock: VirtualClock
    spec: AwsSpec
    ec2: "EC2Client"
    directory: Path
    clients: AwsClients

    def target(self, migration_id: str = "mig-1", **changes: Any) -> AwsTarget:
        """A target that shares nothing with any other but connections."""
        spec = dataclasses.replace(self.spec, **changes)
        shared = None if "read_timeout_seconds" in changes else self.clients
        return AwsTarget(spec, migration_id, self.clock, clients=shared)

    def snapshot(
        self,
        target: AwsTarget,
        blocks: Mapping[int, bytes],
        *,
        seq: int = 1,
        disk: VmDisk = ROOT,
        parent: SnapshotRef | None = None,
    ) -> SnapshotRef:
        """A completed snapshot of these blocks."""
        ref = target.begin_snapshot(seq, disk, parent)
        writer = target.writer(ref, parent)
        writer.commit(put(writer, blocks))
        return ref

    def fault(self, kind: FaultKind, operation: str, **more: Any) -> None:
        """Arm one fault."""
        self.box.faults.add(Fault(kind, operation, **more))

    def retrier(self) -> Retrier:
        """The engine's retry layer on the virtual clock."""
        return Retrier(RetryPolicy(), self.clock)

    def volumes_of(self, instance_id: str) -> Sequence[str]:
        """Volume ids of an instance, in device order."""
        machine = next(m for m in self.box.launches.machines() if m.instance_id == instance_id)
        return [volume_id for _, volume_id in machine.volumes]

    def volume_bytes(self, volume_id: str, blocks: int) -> bytes:
        """The first blocks of what a machine reads from a volume."""
        path = self.directory / volume_id
        self.box.export_volume(volume_id, path)
        with path.open("rb") as file:
            return file.read(blocks * BLOCK_BYTES)


OpenAccount = Callable[..., Account]


def vm(disks: Sequence[VmDisk] = (ROOT, DATA), **changes: Any) -> SourceVm:
    """A source with a system disk and a data disk."""
    source = SourceVm(
        uuid="c0ffee",
        name="web",
        boot_id="b1",
        firmware=Firmware.BIOS,
        architecture="x86_64",
        vcpus=2,
        memory_bytes=2 * GiB,
        disks=tuple(disks),
    )
    return dataclasses.replace(source, **changes)


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No AWS configuration of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def open_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean_environment: None
) -> Iterator[OpenAccount]:
    """Opens accounts with given rules; the last one is in the environment."""
    running: list[AwsSandbox] = []

    def start(rules: Rules | None = None, **arguments: Any) -> Account:
        clock = arguments.pop("clock", None) or VirtualClock()
        box = AwsSandbox(tmp_path / f"box{len(running)}", clock=clock, rules=rules, **arguments)
        box.start()
        running.append(box)
        for name, value in box.environment().items():
            monkeypatch.setenv(name, value)
        clients = AwsClients(AwsSpec("", (), concurrency=32))
        ec2 = clients.ec2
        subnet = ec2.describe_subnets()["Subnets"][0]
        group = ec2.describe_security_groups()["SecurityGroups"][0]
        spec = AwsSpec(
            subnet["SubnetId"], (group["GroupId"],), instance_type=INSTANCE_TYPE, concurrency=4
        )
        return Account(box, clock, spec, ec2, tmp_path, clients)

    yield start
    for box in running:
        box.stop()


@pytest.fixture
def account(open_account: OpenAccount) -> Account:
    return open_account()
