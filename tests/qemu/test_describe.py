"""What is said about a VM, and which VMs are refused."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from sealift.endpoints import Firmware, Nic
from sealift.errors import SourceError
from sealift.units import MiB
from tests.qemu.conftest import Attach, MakeVm

pytestmark = pytest.mark.tools

OVMF = Path("/usr/share/OVMF/OVMF_CODE.fd")


def image(directory: Path, name: str) -> Path:
    path = directory / name
    path.write_bytes(bytes(MiB))
    return path


def test_the_machine(make_vm: MakeVm, attach: Attach) -> None:
    vm = make_vm(
        disks=2,
        running=True,
        extra=[
            "-smp",
            "2",
            "-netdev",
            "user,id=n0,restrict=on",
            "-device",
            "virtio-net-pci,id=nic0,netdev=n0,mac=52:54:00:12:34:56",
        ],
    )
    found = attach(vm).describe()
    assert found.uuid == "3e2b1c0a-0000-4000-8000-00000000abcd"
    assert found.name == "testvm"
    assert found.architecture == "x86_64"
    assert found.firmware is Firmware.BIOS
    assert (found.vcpus, found.memory_bytes) == (2, 32 * MiB)
    assert found.running
    assert not found.guest_agent
    assert found.nics == (Nic("nic0", "52:54:00:12:34:56", "virtio-net-pci"),)
    first = found.disks[0]
    assert (first.id, first.size, first.bus, first.serial) == ("vd0", 16 * MiB, "virtio-blk", "S0")
    assert [disk.id for disk in found.disks] == ["vd0", "vd1"]


def test_the_boot_disk_comes_first(make_vm: MakeVm, attach: Attach, directory: Path) -> None:
    path = image(directory, "boot.img")
    vm = make_vm(
        disks=1,
        extra=[
            "-blockdev",
            f"driver=raw,node-name=b,file.driver=file,file.filename={path}",
            "-device",
            "nvme,id=boot0,drive=b,serial=N1,bootindex=1",
        ],
    )
    disks = attach(vm).describe().disks
    assert [(d.id, d.bus, d.boot_index) for d in disks] == [
        ("boot0", "nvme", 1),
        ("vd0", "virtio-blk", None),
    ]


@pytest.mark.parametrize("how", ["pflash", "bios"])
def test_uefi(make_vm: MakeVm, attach: Attach, directory: Path, how: str) -> None:
    options = {
        "pflash": ["-drive", f"if=pflash,format=raw,readonly=on,file={OVMF}"],
        "bios": ["-bios", "/usr/share/ovmf/OVMF.fd"],
    }
    vm = make_vm(extra=options[how])
    found = attach(vm).describe()
    assert found.firmware is Firmware.UEFI
    assert [d.id for d in found.disks] == ["vd0"]


def test_media_that_nobody_migrates(make_vm: MakeVm, attach: Attach, directory: Path) -> None:
    path = image(directory, "cd.iso")
    vm = make_vm(
        machine="pc",
        extra=[
            "-drive",
            f"file={path},media=cdrom,format=raw,if=ide",
            "-drive",
            f"file={image(directory, 'floppy')},format=raw,if=floppy",
            "-blockdev",
            f"driver=raw,node-name=ro,read-only=on,file.driver=file,file.filename={path}",
            "-device",
            "virtio-blk-pci,id=seed,drive=ro",
        ],
    )
    assert [d.id for d in attach(vm).describe().disks] == ["vd0"]


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["-device", "virtio-blk-pci,drive=x"], "no id"),
        (["-device", "usb-ehci", "-device", "usb-storage,id=stick,drive=x"], "cannot be migrated"),
        (
            ["-object", "iothread,id=io0", "-device", "virtio-blk-pci,id=q,drive=x,iothread=io0"],
            "iothread",
        ),
        (
            [
                "-object",
                "iothread,id=io0",
                "-device",
                "virtio-scsi-pci,id=s,iothread=io0",
                "-device",
                "scsi-hd,id=q,drive=x,bus=s.0",
            ],
            "iothread",
        ),
    ],
)
def test_disks_that_cannot_be_taken(
    make_vm: MakeVm, attach: Attach, directory: Path, extra: list[str], says: str
) -> None:
    path = image(directory, "x.img")
    blockdev = f"driver=raw,node-name=x,file.driver=file,file.filename={path}"
    vm = make_vm(extra=["-blockdev", blockdev, *extra])
    with pytest.raises(SourceError, match=says) as caught:
        attach(vm).describe()
    assert caught.value.next_step


def test_a_drive_without_node_name(make_vm: MakeVm, attach: Attach, directory: Path) -> None:
    path = image(directory, "old.img")
    vm = make_vm(
        extra=[
            "-drive",
            f"file={path},format=raw,if=none,id=old",
            "-device",
            "virtio-blk-pci,id=vdold,drive=old",
        ]
    )
    with pytest.raises(SourceError, match=r"vdold.*no node name"):
        attach(vm).describe()


def test_disks_that_qemu_does_not_serve_itself(
    make_vm: MakeVm, attach: Attach, directory: Path
) -> None:
    """A vhost-user disk is in no list of block devices; leaving it out would lose it."""
    path = image(directory, "vu.img")
    storage = directory / "vu.sock"
    daemon = subprocess.Popen(
        [
            "qemu-storage-daemon",
            "--blockdev",
            f"driver=file,node-name=f,filename={path}",
            "--export",
            f"type=vhost-user-blk,id=e,node-name=f,addr.type=unix,addr.path={storage}",
            "--daemonize",
            "--pidfile",
            str(directory / "vu.pid"),
        ]
    )
    daemon.wait(60)
    memory = "memory-backend-memfd,id=mem,size=32M,share=on"
    try:
        vm = make_vm(
            machine="q35,memory-backend=mem",
            extra=[
                "-object",
                memory,
                "-chardev",
                f"socket,id=vu,path={storage}",
                "-device",
                "vhost-user-blk-pci,id=vu0,chardev=vu",
            ],
        )
        with pytest.raises(SourceError, match="vu0"):
            attach(vm).describe()
    finally:
        os.kill(int((directory / "vu.pid").read_text()), signal.SIGTERM)


@pytest.mark.parametrize("device", ["nvme,serial=n", "scsi-hd", "ide-hd"])
@pytest.mark.parametrize("running", [False, True])
def test_every_supported_controller(
    make_vm: MakeVm, attach: Attach, directory: Path, device: str, running: bool
) -> None:
    path = image(directory, "one.img")
    file = {"driver": "file", "filename": str(path)}
    blockdev = {"driver": "raw", "node-name": "one", "file": file}
    vm = make_vm(
        disks=1,
        running=running,
        extra=[
            "-device",
            "virtio-scsi-pci",
            "-blockdev",
            json.dumps(blockdev),
            "-device",
            f"{device},id=one0,drive=one",
        ],
    )
    hv = attach(vm)
    hv.open_point(1, {"vd0": None, "one0": None})
    vm.monitor.hmp('qemu-io -d one0 "write -P 0x55 0 64k"')
    reader = hv.reader(1, "one0")
    buffer = bytearray(64 * 1024)
    reader.read_into(0, memoryview(buffer))
    reader.close()
    assert not any(buffer)
    hv.commit_point(1)
    counts = {t.disk_id: t.dirty_bytes for t in hv.tracking()}
    assert counts == {"vd0": 0, "one0": 64 * 1024}
    assert path.read_bytes()[: 64 * 1024] == b"\x55" * 64 * 1024
    assert vm.traces() == set()
