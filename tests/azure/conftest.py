"""An offline Azure subscription per test, on a clock that only sleeping moves."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from connectors.azure.page_writer import BLOCK_BYTES
from connectors.azure.session import AzureClients
from connectors.azure.spec import AzureSpec
from connectors.azure.target import AzureTarget
from sandbox.azure.faults import Fault, FaultKind
from sandbox.azure.machines import LaunchedMachine
from sandbox.azure.server import AzureSandbox
from sealift.endpoints import Firmware, SnapshotRef, SourceVm, VmDisk
from sealift.retry import Retrier, RetryPolicy
from sealift.testing.clock import VirtualClock
from sealift.units import GiB, MiB

ROOT = VmDisk("vda", 3 * MiB, "virtio-blk", boot_index=0)
DATA = VmDisk("vdb", 2 * MiB + 512, "virtio-blk")
VM_SIZE = "Standard_D2s_v5"


def block(seed: str) -> bytes:
    """A block of 64 KiB that is unlike every other seed's."""
    return hashlib.shake_256(seed.encode()).digest(32) * (BLOCK_BYTES // 32)


ZERO = bytes(BLOCK_BYTES)


def put(writer: Any, blocks: Mapping[int, bytes]) -> None:
    """Write blocks one by one."""
    for index, data in sorted(blocks.items()):
        writer.write(index * BLOCK_BYTES, memoryview(data), [])


def joined(*layers: Mapping[int, bytes], size: int = ROOT.size) -> bytes:
    """The disk that these layers make, one on top of the other."""
    blocks = {index: data for layer in layers for index, data in layer.items()}
    return b"".join(blocks.get(index, ZERO) for index in range(-(-size // BLOCK_BYTES)))


@dataclass(frozen=True)
class Subscription:
    """One sandbox with what a plan names in it."""

    box: AzureSandbox
    clock: VirtualClock
    spec: AzureSpec
    directory: Path
    clients: AzureClients

    def target(self, migration_id: str = "mig-1", **changes: Any) -> AzureTarget:
        """A target that shares nothing with any other but connections."""
        spec = dataclasses.replace(self.spec, **changes)
        shared = None if "read_timeout_seconds" in changes else self.clients
        return AzureTarget(spec, migration_id, self.clock, clients=shared)

    def snapshot(
        self,
        target: AzureTarget,
        blocks: Mapping[int, bytes],
        *,
        seq: int = 1,
        disk: VmDisk = ROOT,
        parent: SnapshotRef | None = None,
    ) -> SnapshotRef:
        """A complete point of these blocks."""
        ref = target.begin_snapshot(seq, disk, parent)
        writer = target.writer(ref, parent)
        put(writer, blocks)
        writer.commit(())
        return ref

    def content(self, target: AzureTarget, ref: SnapshotRef) -> bytes:
        """The bytes of a point, by plain calls."""
        point = target._staging.point(ref.id)
        assert point is not None
        with self.box.blob_service() as service:
            blob = service.get_blob_client(self.spec.container, point.blob, snapshot=point.stamp)
            data: bytes = blob.download_blob().readall()
        return data[: ref.size]

    def fault(self, kind: FaultKind, operation: str, **more: Any) -> None:
        """Arm one fault."""
        self.box.faults.add(Fault(kind, operation, **more))

    def machine(self, instance_id: str) -> LaunchedMachine:
        """What the sandbox says of a machine."""
        return next(m for m in self.box.machines() if m.id.lower() == instance_id.lower())

    def retrier(self) -> Retrier:
        """The engine's retry layer on the virtual clock."""
        return Retrier(RetryPolicy(), self.clock)


OpenSubscription = Callable[..., Subscription]


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


@pytest.fixture(scope="module")
def module_environment() -> Iterator[pytest.MonkeyPatch]:
    """No Azure configuration of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("AZURE_", "IDENTITY_"))]:
            patch.delenv(name)
        yield patch


@pytest.fixture(scope="module")
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture(scope="module")
def shared_box(
    tmp_path_factory: pytest.TempPathFactory,
    module_environment: pytest.MonkeyPatch,
    clock: VirtualClock,
) -> Iterator[AzureSandbox]:
    """One sandbox for a module: Azurite takes a second to start. Tests use own migrations."""
    with AzureSandbox(tmp_path_factory.mktemp("azure"), clock=clock) as box:
        for name, value in box.environment().items():
            module_environment.setenv(name, value)
        yield box


def spec_of(box: AzureSandbox) -> AzureSpec:
    """A plan that names what the sandbox has."""
    return AzureSpec(
        subscription_id=box.subscription_id,
        resource_group=box.resource_group,
        storage_account=box.storage_account,
        container=box.container,
        subnet_id=box.subnet_id,
        network_security_group_id=box.network_security_group_id,
        blob_endpoint=box.blob_endpoint,
        endpoint=box.endpoint,
        concurrency=4,
    )


@pytest.fixture
def subscription(
    shared_box: AzureSandbox, clock: VirtualClock, tmp_path: Path
) -> Iterator[Subscription]:
    spec = spec_of(shared_box)
    clients = AzureClients(spec)
    yield Subscription(shared_box, clock, spec, tmp_path, clients)
    clients.close()
    shared_box.faults.clear()
