"""A world whose cloud is Azure: the real connector on simulated calls, the same model."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from connectors.azure import leases, page_writer, staging
from connectors.azure.chain import State, label_of
from connectors.azure.spec import AzureSpec
from connectors.azure.target import AzureTarget
from converters.vhd import FOOTER_BYTES
from sealift.endpoints import Check, SnapshotState, SourceVm
from sealift.ports import Ports
from sealift.testing.faults import Script, tapped
from sealift.testing.scenario import BLOCK, VOLUME_STEP, Scenario
from tests.simulation.azure_clients import LeaseClient, SimulatedClients
from tests.simulation.azure_service import CONTAINER, AzureService, Resource

MIGRATION = "simulated"
SPEC = AzureSpec(
    subscription_id="s",
    resource_group="g",
    storage_account="account",
    container=CONTAINER,
    subnet_id="/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/subnets/d",
    location="here",
    vm_size="Standard_D2s_v5",
    concurrency=1,
)


@contextmanager
def small_pages() -> Iterator[None]:
    """Blocks and disks as small as those of every other simulation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_writer, "BLOCK_BYTES", BLOCK)
        patch.setattr(page_writer, "MAX_PUT_BYTES", 2 * BLOCK)
        patch.setattr(staging, "MiB", VOLUME_STEP)
        patch.setattr(leases, "BlobLeaseClient", LeaseClient)
        yield


@dataclass
class AzureCloud:
    """The service as the model looks at a cloud, and as others disturb it."""

    service: AzureService
    _seen: int = -1
    _snapshots: dict[str, Any] = field(default_factory=dict)

    @property
    def changes(self) -> int:
        """Whatever happened, and what time has ended."""
        self.service.settle()
        return self.service.changes

    @property
    def sealed(self) -> dict[int, dict[str, str]]:
        """Points as they became visible."""
        return self.service.sealed

    @property
    def snapshots(self) -> dict[str, Any]:
        """Points that are visible, the first of each number."""
        if self._seen != self.changes:
            self._seen = self.service.changes
            self._snapshots = dict(self._points())
        return self._snapshots

    def _points(self) -> Iterator[tuple[str, Any]]:
        found = set()
        for name, blob in self.service.blobs.items():
            for _, one in sorted(blob.snapshots.items()):
                label = label_of(one.metadata)
                if label is None or label.state is not State.POINT:
                    continue
                if (name, label.seq) not in found:
                    found.add((name, label.seq))
                    yield (
                        f"{name}@{label.seq}",
                        SimpleNamespace(
                            seq=label.seq,
                            disk=name.rpartition("/")[2].removesuffix(".vhd"),
                            writer=SimpleNamespace(
                                committed=True, content=one.content[:-FOOTER_BYTES]
                            ),
                        ),
                    )

    def content(self, snapshot_id: str) -> bytes:
        """Bytes of a point."""
        content: bytes = self.snapshots[snapshot_id].writer.content
        return content

    def snapshot_state(self, snapshot_id: str) -> SnapshotState:
        """Whether it is there."""
        there = snapshot_id in self.snapshots
        return SnapshotState.COMPLETED if there else SnapshotState.MISSING

    @property
    def images(self) -> dict[str, dict[str, str]]:
        """Copies stand on nothing but themselves."""
        prefix = f"{MIGRATION}/images/"
        names = [name for name in self.service.blobs if name.startswith(prefix)]
        return {name.rpartition("/")[0]: {} for name in names}

    @property
    def instances(self) -> dict[str, Any]:
        """Machines from the moment in which Azure accepted them until they are gone."""
        return {one.id: self._instance(one) for one in self.service.each("machine")}

    def _instance(self, one: Resource) -> Any:
        disks = [self.service.resources[part] for part in one.parts if part[0] == "disk"]
        well = one.power == "running" and one.state == "succeeded"
        return SimpleNamespace(
            disks={disk.tags["sealift-disk"]: disk.content for disk in disks},
            state="ok" if well else "failed",
        )

    def owned(self) -> list[str]:
        """Everything but the parts of machines that are there.

        A staging blob without snapshots goes by the point that it says it is, as others may have
        deleted the snapshot of a point that nobody needs any more.
        """
        left = [
            one.id
            for kind in ("disk", "card")
            for one in self.service.each(kind)
            if not one.machine
        ]
        return [*left, *self._bare(), *self.instances, *self.images, *self.snapshots]

    def _bare(self) -> Iterator[str]:
        for name, blob in self.service.blobs.items():
            label = label_of(blob.metadata)
            if "/images/" not in name and not blob.snapshots:
                yield f"{name}@{label.seq if label is not None else 'unknown'}"

    # ------------------------------------------------------------------ others

    def unused(self) -> list[str]:
        """Points, as copies keep none of them in use."""
        return list(self.snapshots)

    def lose_snapshot(self) -> None:
        """Somebody deletes the newest blob snapshot."""
        name, _, seq = list(self.snapshots)[-1].rpartition("@")
        blob = self.service.blobs[name]
        for stamp, one in list(blob.snapshots.items()):
            label = label_of(one.metadata)
            if label is not None and label.seq == int(seq):
                del blob.snapshots[stamp]
        self.service.changes += 1

    def pending(self) -> list[str]:
        """Staging blobs that we hold: written now, or what the next round stands on."""
        labelled = [
            (name, blob, label_of(blob.metadata)) for name, blob in self.service.blobs.items()
        ]
        return [
            name
            for name, blob, label in labelled
            if label is not None and label.state in (State.PENDING, State.DONE) and blob.lease
        ]

    def fail_pending(self) -> None:
        """Another writer breaks the lease, writes, and lets go."""
        blob = self.service.blobs[self.pending()[-1]]
        blob.lease, blob.broken = "", blob.lease
        blob.content[:] = b"another's bytes!" * (len(blob.content) // 16)
        self.service.touch(blob)

    def _set_health(self, word: str) -> None:
        self.service.next_power = "running" if word == "ok" else "stopped"

    def _set_full(self, full: bool) -> None:
        self.service.no_capacity = full

    next_health = property(None, _set_health)
    fail_launch = property(None, _set_full)


class Target(AzureTarget):
    """The connector, but for questions about the account, which make and change nothing."""

    def preflight(self, vm: SourceVm) -> Sequence[Check]:
        return [Check("simulated Azure", ok=True, found="ready")]


@dataclass
class AzureScenario(Scenario):
    """As ``Scenario``, with Azure behind the cloud port."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.service = AzureService(self.clock)
        self.cloud: Any = AzureCloud(self.service)

    def ports(self, script: Script) -> Ports:
        """See ``Scenario.ports``; every process has a target of its own."""
        ports = super().ports(script)
        cancel = ports.context.cancel
        clients: Any = SimulatedClients(SPEC, self.service, script)
        target = Target(SPEC, MIGRATION, self.clock, cancel=cancel, clients=clients)
        return replace(ports, target=tapped(target, "cloud", script))
