"""The manifest of a recovery point: what the machine was, and one hash tree for each disk."""

from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from sealift.endpoints import Consistency, Firmware, Nic, SourceVm, VmDisk
from sealift.errors import IntegrityError
from sealift.repository.canonical import MAX_TIME_MS, Fields, Json, decode, encode
from sealift.repository.tree import ID_BYTES, MAX_CHUNK_BYTES, MAX_DISK_BYTES, Tree

POINT_ID_BYTES = 16
MANIFEST_VERSION = 1
MAX_MANIFEST_BYTES = 1 << 20
MAX_DISKS = 256

E = TypeVar("E", bound=Enum)


@dataclass(frozen=True, slots=True)
class PointDisk:
    """One disk of a point.

    Attributes:
        disk: as the hypervisor described it.
        tree: its content.
    """

    disk: VmDisk
    tree: Tree


@dataclass(frozen=True, slots=True)
class PointManifest:
    """A whole machine at one instant.

    Attributes:
        id: 16 bytes; the same for every attempt to seal the same point.
        plan: id of the replication that made it.
        seq: number of the point in that replication.
        vm: the machine; ``disks`` in device order.
        consistency: what a restored point is equal to, from the guest's view.
        note: one sentence on that, for people.
        taken_ms: when, in milliseconds since 1970 by the clock of the replicating host.
        previous: SHA-256 of the manifest object of the point before; zeroes for the first.
        tool: name and version of what wrote it.
        disks: the content, in the order of ``vm.disks``.
    """

    id: bytes
    plan: str
    seq: int
    vm: SourceVm
    consistency: Consistency
    note: str
    taken_ms: int
    previous: bytes
    tool: str
    disks: tuple[PointDisk, ...]

    def disk(self, disk_id: str) -> PointDisk | None:
        """One disk by its id."""
        return next((d for d in self.disks if d.disk.id == disk_id), None)

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return encode(
            {
                "version": MANIFEST_VERSION,
                "id": self.id.hex(),
                "plan": self.plan,
                "seq": self.seq,
                "vm": _vm(self.vm),
                "consistency": self.consistency.value,
                "note": self.note,
                "taken_ms": self.taken_ms,
                "previous": self.previous.hex(),
                "tool": self.tool,
                "disks": [_disk(d) for d in self.disks],
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes, what: str) -> "PointManifest":
        """Read ``to_bytes``.

        Raises:
            IntegrityError: not a manifest, or of a version that this release does not know.
        """
        fields = decode(data, what)
        version = fields.integer("version")
        if version != MANIFEST_VERSION:
            raise IntegrityError(
                f"{what}: a manifest of version {version}; this release reads {MANIFEST_VERSION}",
                next_step="use the newer release of sealift that wrote it",
            )
        disks = tuple(_read_disk(one) for one in fields.objects("disks"))
        if not 0 < len(disks) <= MAX_DISKS:
            raise IntegrityError(f"{what}: a point of {len(disks)} disks")
        return cls(
            id=fields.raw("id", POINT_ID_BYTES),
            plan=fields.text("plan"),
            seq=fields.integer("seq"),
            vm=_read_vm(fields, disks),
            consistency=_enum(Consistency, fields, "consistency"),
            note=fields.text("note"),
            taken_ms=fields.integer("taken_ms", most=MAX_TIME_MS),
            previous=fields.raw("previous", 32),
            tool=fields.text("tool"),
            disks=disks,
        )


def _vm(vm: SourceVm) -> Json:
    return {
        "uuid": vm.uuid,
        "name": vm.name,
        "boot_id": vm.boot_id,
        "firmware": vm.firmware.value,
        "architecture": vm.architecture,
        "vcpus": vm.vcpus,
        "memory_bytes": vm.memory_bytes,
        "nics": [{"id": n.id, "mac": n.mac, "model": n.model} for n in vm.nics],
    }


def _disk(one: PointDisk) -> Json:
    return {
        "id": one.disk.id,
        "bus": one.disk.bus,
        "serial": one.disk.serial,
        "boot_index": one.disk.boot_index,
        "size": one.tree.size,
        "chunk_size": one.tree.chunk_size,
        "root": one.tree.root.hex(),
    }


def _read_disk(fields: Fields) -> PointDisk:
    size = fields.integer("size", least=1, most=MAX_DISK_BYTES)
    chunk_size = fields.integer("chunk_size", least=512, most=MAX_CHUNK_BYTES)
    disk = VmDisk(
        id=fields.text("id"),
        size=size,
        bus=fields.text("bus"),
        boot_index=fields.optional_integer("boot_index"),
        serial=fields.text("serial"),
    )
    try:
        return PointDisk(disk, Tree(size, chunk_size, fields.raw("root", ID_BYTES)))
    except ValueError as error:
        raise IntegrityError(f"{fields.what}: {error}") from None


def _read_vm(manifest: Fields, disks: tuple[PointDisk, ...]) -> SourceVm:
    fields = manifest.object("vm")
    return SourceVm(
        uuid=fields.text("uuid"),
        name=fields.text("name"),
        boot_id=fields.text("boot_id"),
        firmware=_enum(Firmware, fields, "firmware"),
        architecture=fields.text("architecture"),
        vcpus=fields.integer("vcpus"),
        memory_bytes=fields.integer("memory_bytes"),
        disks=tuple(one.disk for one in disks),
        nics=tuple(
            Nic(nic.text("id"), nic.text("mac"), nic.text("model"))
            for nic in fields.objects("nics")
        ),
        running=False,
    )


def _enum(kind: type[E], fields: Fields, name: str) -> E:
    try:
        return kind(fields.text(name))
    except ValueError:
        raise IntegrityError(f"{fields.what}: field {name} is not what it should be") from None
