"""From a real QEMU's bitmaps to EBS snapshots with parents: what the guest zeroed is zero."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from connectors.aws.spec import AwsSpec
from connectors.aws.target import AwsTarget
from connectors.qemu import QemuHypervisor
from sandbox.aws import AwsSandbox
from sealift.clock import SystemClock
from sealift.endpoints import SnapshotRef
from sealift.extents import Kind
from sealift.migrator import Migrator
from sealift.ports import Ports
from sealift.store import FileStateStore
from sealift.sync import SyncContext
from sealift.units import KiB, MiB, round_up

pytestmark = [pytest.mark.tools, pytest.mark.sandbox]
BLOCK = 512 * KiB


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AwsSandbox]:
    with AwsSandbox(tmp_path / "aws") as started:
        for name in [n for n in os.environ if n.startswith("AWS_")]:
            monkeypatch.delenv(name)
        for name, value in started.environment().items():
            monkeypatch.setenv(name, value)
        yield started


@pytest.fixture
def cloud(sandbox: AwsSandbox) -> Iterator[AwsTarget]:
    ec2 = boto3.Session().client("ec2")
    spec = AwsSpec(
        ec2.describe_subnets()["Subnets"][0]["SubnetId"],
        (ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"],),
        concurrency=4,
    )
    target = AwsTarget(spec, "mig1", SystemClock())
    yield target
    target.close()


def migrator(source: QemuHypervisor, cloud: AwsTarget, folder: Path) -> Migrator:
    return Migrator.open(
        Ports(source, cloud, FileStateStore(folder), SyncContext(SystemClock())), "mig1"
    )


def landed(cloud: AwsTarget, ref: SnapshotRef, size: int) -> bytes:
    """The disk as the snapshot holds it; the volume's tail is never anything but zeroes."""
    reader = cloud.reader(ref)
    held = round_up(size, BLOCK)
    buffer = bytearray(held)
    reader.read_into(0, memoryview(buffer))
    assert not any(buffer[size:])
    assert {e.kind for e in reader.extents(held, reader.size - held)} == {Kind.ZERO}
    return bytes(buffer[:size])


def test_zeroed_and_discarded_data_lands_as_zeroes_in_the_child(
    make_vm: Any, attach: Any, cloud: AwsTarget, tmp_path: Path
) -> None:
    vm = make_vm(disks=2, size=6 * MiB + 512)
    vm.write(0, 0xA1, 0, 6 * MiB)
    vm.write(1, 0xB2, MiB, 2 * MiB)
    source = attach(vm)
    first = migrator(source, cloud, tmp_path / "state").replicate()
    parents = {b.disk_id: b.snapshot for b in first.bases}
    vm.zero(0, BLOCK, 2 * BLOCK)
    vm.guest(0, f"discard {4 * BLOCK} {BLOCK}")
    vm.content[0][4 * BLOCK : 5 * BLOCK] = bytes(BLOCK)
    vm.write(0, 0x00, 6 * BLOCK, 64 * KiB)
    vm.zero(1, MiB + 4096, 8192)
    state = migrator(source, cloud, tmp_path / "state").replicate()
    assert {mode for _, mode, _ in state.history[-1].modes} == {"incremental"}
    assert state.history[-1].sent_bytes == 5 * BLOCK
    for index, base in enumerate(state.bases):
        assert landed(cloud, base.snapshot, vm.sizes[index]) == bytes(vm.content[index])
        assert base.snapshot != parents[base.disk_id]
    source.close()


def test_whole_targets_equal_the_source_over_many_rounds(
    make_vm: Any, attach: Any, cloud: AwsTarget, tmp_path: Path
) -> None:
    vm = make_vm(disks=1, size=9 * MiB)
    source = attach(vm)
    for number in range(6):
        vm.write(0, number + 1, (number * 1_700_352) % (8 * MiB), 4096 * (number + 1))
        vm.zero(0, (number * 900_096) % (8 * MiB), 65536)
        state = migrator(source, cloud, tmp_path / "state").replicate()
        (base,) = state.bases
        assert landed(cloud, base.snapshot, vm.sizes[0]) == bytes(vm.content[0])
    assert cloud.owned() == [base.snapshot.id]
    source.close()


@pytest.mark.fault(31, 34)
def test_a_killed_qemu_is_compared_and_a_grown_disk_follows(
    make_vm: Any, attach: Any, cloud: AwsTarget, tmp_path: Path
) -> None:
    vm = make_vm(disks=1, size=4 * MiB)
    vm.write(0, 0x11, 0, 4 * MiB)
    source = attach(vm)
    migrator(source, cloud, tmp_path / "state").replicate()
    source.close()
    vm.kill()
    vm.start()
    vm.write(0, 0x22, MiB, 4096)
    source = attach(vm)
    state = migrator(source, cloud, tmp_path / "state").replicate()
    ((_, mode, reason),) = state.history[-1].modes
    assert mode == "compare"
    assert "another one" in reason
    assert state.history[-1].sent_bytes == BLOCK
    vm.monitor.run("block_resize", node_name="drive0", size=5 * MiB)
    vm.content[0] += bytes(MiB)
    vm.sizes[0] = 5 * MiB
    vm.write(0, 0x33, 4 * MiB + 8192, 4096)
    state = migrator(source, cloud, tmp_path / "state").replicate()
    ((_, mode, reason),) = state.history[-1].modes
    assert (mode, state.history[-1].sent_bytes) == ("compare", BLOCK)
    assert "another size" in reason
    (base,) = state.bases
    assert landed(cloud, base.snapshot, 5 * MiB) == bytes(vm.content[0])
    source.close()
