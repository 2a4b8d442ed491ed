"""What QEMU says about the machine: its disks, how it boots, what it is made of."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from connectors.qemu import answers
from connectors.qemu.graph import BlockState, Device, ParentKind
from connectors.qemu.names import Part, parse_node
from connectors.qemu.qmp import CommandRefusedError, QmpSession
from sealift.endpoints import Firmware, Nic, VmDisk
from sealift.errors import SourceError

_PERIPHERAL = "/machine/peripheral"
_ANONYMOUS = "/machine/peripheral-anon"
_BACKEND = "/virtio-backend"
_DISK_TYPES = ("virtio-blk-", "nvme", "scsi-hd", "ide-hd")
"""Devices whose medium can be exchanged below a running guest; tried with QEMU 7.2."""
_NO_DISK_TYPES = ("ide-cd", "scsi-cd", "floppy", "cfi.pflash")
_UNSEEN_TYPES = (
    "vhost-user-blk",
    "vhost-user-scsi",
    "vhost-scsi",
    "virtio-blk-vhost",
)
"""Disks that QEMU's block layer does not serve: nobody can track their writes."""
_UEFI_NAMES = re.compile(r"ovmf|edk2|uefi|aavmf|qemu_efi", re.IGNORECASE)
_ARCHITECTURES = {"x86_64": "x86_64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class Disk:
    """A writable disk of the guest and where it hangs in the block layer.

    Attributes:
        vm: what the engine knows of it.
        qdev: QEMU's handle for limits.
        source: the node that holds the disk's bytes and bitmaps, below anything of ours.
        top: the node that the device uses now; ``source`` unless a point is open.
        driver: of ``source``: qcow2, raw, ...
        group: throttle group, or "".
        limits: see ``graph.Device``.
    """

    vm: VmDisk
    qdev: str
    source: str
    top: str
    driver: str
    group: str
    limits: Mapping[str, int]

    @property
    def id(self) -> str:
        """The device id."""
        return self.vm.id

    @property
    def qom_path(self) -> str:
        """Where the device's properties are."""
        return f"{_PERIPHERAL}/{self.id}"


def find_disks(qmp: QmpSession, state: BlockState) -> tuple[Disk, ...]:
    """Every writable disk of the guest, boot disk first, then in device order.

    Raises:
        SourceError: a disk cannot be tracked or exported; names it and what to change.
    """
    _refuse_unseen(qmp)
    disks = [d for device in state.devices if (d := _disk(qmp, state, device)) is not None]
    known = 1 << 31
    order = {d.id: (known if d.vm.boot_index is None else d.vm.boot_index) for d in disks}
    return tuple(sorted(disks, key=lambda d: order[d.id]))


def _disk(qmp: QmpSession, state: BlockState, device: Device) -> Disk | None:
    path = device.qdev if device.qdev.startswith("/") else f"{_PERIPHERAL}/{device.qdev}"
    path = path.removesuffix(_BACKEND)
    kind = _property_text(qmp, path, "type")
    if device.read_only or not kind or kind.startswith(_NO_DISK_TYPES):
        return None  # without a type: it is being unplugged right now
    disk_id = _device_id(path, kind)
    refuse_jobs(state, disk_id, device.top)
    if device.top.startswith("#") or device.top not in state.nodes:
        raise _unfit(disk_id, "its medium has no node name", "define it by -blockdev node-name=...")
    _refuse_iothread(qmp, disk_id, path)
    source = _below_ours(state, device.top)
    node = state.nodes[source]
    boot_index = _property_number(qmp, path, "bootindex")
    return Disk(
        VmDisk(disk_id, node.size, _bus(kind), boot_index, _property_text(qmp, path, "serial")),
        device.qdev,
        source,
        device.top,
        node.driver,
        device.group,
        device.limits,
    )


def _device_id(path: str, kind: str) -> str:
    disk_id = path.removeprefix(f"{_PERIPHERAL}/")
    if disk_id == path or "/" in disk_id:
        raise _unfit(path, "its device has no id", "add id=... to its -device option")
    if not kind.startswith(_DISK_TYPES):
        raise _unfit(disk_id, f"{kind} is not supported", "use virtio-blk, nvme, scsi-hd or ide-hd")
    return disk_id


def _below_ours(state: BlockState, top: str) -> str:
    """The guest's own node under the filters of any Sealift migration."""
    node = top
    while (name := parse_node(node)) is not None and name.part is Part.FILTER:
        below = state.child(node, "file")
        if below is None:
            raise SourceError(f"QEMU does not say what is below node {node}")
        node = below
    return node


def _refuse_iothread(qmp: QmpSession, disk_id: str, path: str) -> None:
    """With QEMU 7.2 the VM aborts when a client leaves the export of such a disk."""
    if not answers.as_list(qmp.execute("query-iothreads"), "iothreads"):
        return
    bus = _property_text(qmp, path, "parent_bus")
    controller = re.sub(rf"({_PERIPHERAL}/[^/]+).*", r"\1", bus)
    for owner in (path, controller):
        if any(_property(qmp, owner, p) for p in ("iothread", "iothread-vq-mapping")):
            raise _unfit(
                disk_id,
                "it runs in an iothread, where QEMU's NBD server can bring the VM down",
                "start the VM without iothread= for this disk",
            )


def _refuse_unseen(qmp: QmpSession) -> None:
    for path, kind in _peripherals(qmp):
        if kind.startswith(_UNSEEN_TYPES):
            raise _unfit(path, f"writes of {kind} cannot be tracked", "attach it as virtio-blk")


def _unfit(disk: str, why: str, change: str) -> SourceError:
    return SourceError(f"disk {disk} cannot be migrated: {why}", next_step=change, disk=disk)


def _bus(kind: str) -> str:
    return "virtio-blk" if kind.startswith("virtio-blk-") else kind


def find_nics(qmp: QmpSession) -> tuple[Nic, ...]:
    """Network cards: every device with a MAC address."""
    found = []
    for path, kind in _peripherals(qmp):
        mac = _property_text(qmp, path, "mac")
        if mac:
            found.append(Nic(path.rsplit("/", 1)[1], mac, kind))
    return tuple(found)


def firmware(qmp: QmpSession) -> Firmware:
    """UEFI when the machine has flash memory for it, or firmware named like UEFI.

    QEMU keeps the property ``pflash0`` only when there is a flash drive, and its own
    default, SeaBIOS, never comes on one.
    """
    if _property_text(qmp, "/machine", "pflash0"):
        return Firmware.UEFI
    name = _property_text(qmp, "/machine", "firmware").rsplit("/", 1)[-1]
    return Firmware.UEFI if _UEFI_NAMES.search(name) else Firmware.BIOS


def architecture(qmp: QmpSession) -> str:
    """``x86_64`` or ``arm64``, else QEMU's word."""
    target = answers.text(answers.as_mapping(qmp.execute("query-target"), "target"), "arch")
    return _ARCHITECTURES.get(target, target)


def memory_bytes(qmp: QmpSession) -> int:
    """Guest RAM, plugged memory included."""
    summary = answers.as_mapping(qmp.execute("query-memory-size-summary"), "memory")
    plugged = answers.number(summary, "plugged-memory") if "plugged-memory" in summary else 0
    return answers.number(summary, "base-memory") + plugged


def _peripherals(qmp: QmpSession) -> Iterator[tuple[str, str]]:
    """Path and type of every device that the user defined."""
    for container in (_PERIPHERAL, _ANONYMOUS):
        try:
            children = answers.objects(qmp.execute("qom-list", path=container), container)
        except CommandRefusedError:
            continue  # machines without devices lack the container
        for child in children:
            kind = answers.text(child, "type")
            if kind.startswith("child<"):
                yield f"{container}/{answers.text(child, 'name')}", kind[6:-1]


def _property(qmp: QmpSession, path: str, name: str) -> object:
    """A property, or None when the object does not have it."""
    try:
        return qmp.execute("qom-get", path=path, property=name)
    except CommandRefusedError:
        return None


def _property_text(qmp: QmpSession, path: str, name: str) -> str:
    value = _property(qmp, path, name)
    return value if isinstance(value, str) else ""


def _property_number(qmp: QmpSession, path: str, name: str) -> int | None:
    value = _property(qmp, path, name)
    return value if isinstance(value, int) and value >= 0 else None


def refuse_jobs(state: BlockState, disk_id: str, node: str) -> None:
    """Refuse a disk that a block job of somebody else works on.

    Raises:
        SourceError: names the job.
    """
    for edge in state.parents(node):
        if edge.kind is ParentKind.JOB:
            raise SourceError(
                f"disk {disk_id} is busy: block job {edge.parent!r} works on it",
                next_step="wait for the job or cancel it",
                disk=disk_id,
            )
