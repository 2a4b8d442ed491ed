"""Disks that boot by themselves, built without root and without loop devices.

Root disk: a FAT16 boot partition with kernel and initial file system, an ext4 root that
holds the writer, a small raw partition for zero-writes and discards. Data disk: ext4 and
such a raw partition. Every file system is found by its label, so that it does not matter
which controller the disks hang on.
"""

import hashlib
import shutil
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from tempfile import TemporaryDirectory

from sandbox.guest import parts
from sandbox.guest.agent import agent_files
from sandbox.guest.initramfs import build_initramfs
from sandbox.guest.tools import run_tool
from sealift.endpoints import Firmware
from sealift.errors import UsageError
from sealift.units import MiB, round_down

_HERE = Path(__file__).parent
_SECTOR = 512
_BOOT_START = 1 * MiB
# A FAT16 of up to 64 MiB; smaller FAT32 file systems are malformed and some firmware refuses them.
_BOOT_BYTES = 32 * MiB
_CHURN_BYTES = 4 * MiB  # CHURN_SLOTS x CHURN_BYTES of layout.h
_GPT_TAIL = 1 * MiB  # the second copy of a GPT; kept free with an MBR too
_LEAST_ROOT = 128 * MiB
_LEAST_DATA = 64 * MiB
# No `quiet`: the picture of a booted machine has to show something. tty0 is on the picture.
# no_timer_check: on a host whose cores are taken the timer looks broken to an emulated machine.
_COMMAND_LINE = "console=tty0 console=ttyS0,115200 net.ifnames=0 no_timer_check"
_EPOCH = "1700000000"
_ROOT_UUID = "5ea11f70-0000-4000-8000-000000000001"
_DATA_UUID = "5ea11f70-0000-4000-8000-000000000002"
_FIXED = {"SOURCE_DATE_EPOCH": _EPOCH, "E2FSPROGS_FAKE_TIME": _EPOCH, "MTOOLS_SKIP_CHECK": "1"}


class ImageFormat(Enum):
    """How a disk lies in its file; QEMU's names."""

    RAW = "raw"
    QCOW2 = "qcow2"


@dataclass(frozen=True, slots=True)
class GuestDisk:
    """A disk image; the format is always said, never guessed from the bytes."""

    path: Path
    format: ImageFormat


@dataclass(frozen=True, slots=True)
class GuestSpec:
    """What to build.

    Attributes:
        firmware: how the root disk boots.
        root_bytes: size of the root disk, a multiple of 512; by default no whole GiB, as
            sources need not be.
        data_bytes: size of the second disk, a multiple of 512; 0 for none.
        format: of both disks; qcow2 is version 3, which can keep dirty bitmaps.
        agent: put QEMU's guest agent into the guest (about 6 MB more to download, once);
            it freezes both file systems and shuts the guest down.
    """

    firmware: Firmware = Firmware.BIOS
    root_bytes: int = 389 * MiB
    data_bytes: int = 195 * MiB
    format: ImageFormat = ImageFormat.QCOW2
    agent: bool = False


def build_guest(spec: GuestSpec, folder: Path) -> tuple[GuestDisk, ...]:
    """Write ``root.*`` and, when wanted, ``data.*`` into ``folder``: fresh, never booted disks.

    Built once per content in the cache (some seconds), then copied sparsely (well below one
    second).

    Raises:
        UsageError: a size that cannot be built.
        ToolError: a tool or package is missing; the next step installs it.
    """
    _check(spec)
    built = parts.cached(f"image-{_content_key(spec)}", lambda work: _build(spec, work))
    disks = [GuestDisk(folder / path.name, spec.format) for path in _image_names(spec, built)]
    for disk in disks:
        source = built / disk.path.name
        run_tool(
            ["cp", "--sparse=always", "--reflink=auto", source, disk.path], package="coreutils"
        )
    return tuple(disks)


def _check(spec: GuestSpec) -> None:
    for name, size, least in (
        ("root", spec.root_bytes, _LEAST_ROOT),
        ("data", spec.data_bytes, _LEAST_DATA),
    ):
        if size % _SECTOR or (size < least and not (name == "data" and size == 0)):
            raise UsageError(f"{name} disk: {size} bytes is no multiple of 512 from {least} on")


def _content_key(spec: GuestSpec) -> str:
    digest = hashlib.sha256(repr(spec).encode())
    kernel = parts.fetch_kernel()
    loader = parts.syslinux_mbr() if spec.firmware is Firmware.BIOS else parts.efi_stub()
    sources = sorted(path for path in _HERE.iterdir() if path.suffix in {".py", ".sh", ".c", ".h"})
    for path in (kernel.image, parts.fetch_busybox(), parts.build_writer(), loader, *sources):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _image_names(spec: GuestSpec, folder: Path) -> list[Path]:
    names = ["root", "data"] if spec.data_bytes else ["root"]
    return [folder / f"{name}.{spec.format.value}" for name in names]


def _build(spec: GuestSpec, folder: Path) -> None:
    with TemporaryDirectory(prefix="guest-image-", dir=parts.cache_folder()) as work:
        raw = [Path(work) / "root.img"]
        _build_root(spec, raw[0], Path(work))
        if spec.data_bytes:
            raw.append(Path(work) / "data.img")
            _build_data(spec, raw[1], Path(work))
        for image, target in zip(raw, _image_names(spec, folder), strict=True):
            _convert(image, target, spec.format)


def _convert(image: Path, target: Path, image_format: ImageFormat) -> None:
    options = ["-o", "compat=1.1"] if image_format is ImageFormat.QCOW2 else []
    run_tool(
        ["qemu-img", "convert", "-f", "raw", "-O", image_format.value, *options, image, target],
        package="qemu-utils",
    )


def _build_root(spec: GuestSpec, disk: Path, work: Path) -> None:
    churn = round_down(spec.root_bytes - _GPT_TAIL - _CHURN_BYTES, MiB)
    root = _BOOT_START + _BOOT_BYTES
    _partition(spec, disk, [(_BOOT_START, _BOOT_BYTES), (root, churn - root), (churn, 0)])
    offset, size = str(_BOOT_START // _SECTOR), str(_BOOT_BYTES // 1024)
    options = ["--invariant", "-F", "16", "-n", "SEALIFT", "--offset", offset]
    run_tool(["mkfs.vfat", *options, disk, size], package="dosfstools", env=_FIXED)
    if spec.firmware is Firmware.BIOS:
        _install_syslinux(disk, work)
    else:
        _install_efi(disk, work)
    tree = work / "root"
    _fill_root(spec, tree)
    _make_ext4(disk, tree, "sealift-root", _ROOT_UUID, root, churn - root)


def _build_data(spec: GuestSpec, disk: Path, work: Path) -> None:
    churn = round_down(spec.data_bytes - _GPT_TAIL - _CHURN_BYTES, MiB)
    disk.touch()
    with disk.open("r+b") as file:
        file.truncate(spec.data_bytes)
    table = _table("label: dos", [(_BOOT_START, churn - _BOOT_START), (churn, 0)], ["83", "da"])
    run_tool(["sfdisk", "--quiet", disk], package="fdisk", data=table, env=_FIXED)
    tree = work / "data"
    tree.mkdir()
    for name in ("records", "bulk"):
        (tree / name).touch()
    _make_ext4(disk, tree, "sealift-data", _DATA_UUID, _BOOT_START, churn - _BOOT_START)


def _partition(spec: GuestSpec, disk: Path, places: list[tuple[int, int]]) -> None:
    with disk.open("wb") as file:
        file.truncate(spec.root_bytes)
    if spec.firmware is Firmware.BIOS:
        table = _table("label: dos", places, ["e,bootable", "83", "da"])
    else:
        table = _table("label: gpt", places, ["uefi", "linux", "linux"])
    run_tool(["sfdisk", "--quiet", disk], package="fdisk", data=table, env=_FIXED)


def _table(label: str, places: list[tuple[int, int]], types: list[str]) -> bytes:
    # Identifiers are fixed: random ones would make two builds of the same content differ.
    gpt = "gpt" in label
    lines = [label, "label-id: " + (_ROOT_UUID if gpt else "0x5ea11f70")]
    for number, ((start, size), kind) in enumerate(zip(places, types, strict=True), 1):
        line = f"start={start // _SECTOR}, size={(size or _CHURN_BYTES) // _SECTOR}, type={kind}"
        lines.append(line + (f", uuid={_ROOT_UUID[:-2]}{number + 16:x}" if gpt else ""))
    return ("\n".join(lines) + "\n").encode()


def _copy_to_boot(disk: Path, files: dict[str, Path]) -> None:
    where = f"{disk}@@{_BOOT_START}"
    for name, path in files.items():
        run_tool(["mcopy", "-o", "-i", where, path, f"::{name}"], package="mtools", env=_FIXED)


def _install_syslinux(disk: Path, work: Path) -> None:
    kernel = parts.fetch_kernel()
    initramfs = work / "initrd.gz"
    initramfs.write_bytes(build_initramfs(kernel, parts.fetch_busybox()))
    config = work / "syslinux.cfg"
    config.write_text(
        f"DEFAULT linux\nPROMPT 0\nLABEL linux\n  KERNEL vmlinuz\n  INITRD initrd.gz\n"
        f"  APPEND {_COMMAND_LINE}\n"
    )
    run_tool(
        ["syslinux", "--install", "-t", str(_BOOT_START), disk], package="syslinux", env=_FIXED
    )
    _copy_to_boot(disk, {"vmlinuz": kernel.image, "initrd.gz": initramfs, "syslinux.cfg": config})
    with disk.open("r+b") as file:
        file.write(parts.syslinux_mbr().read_bytes()[:440])


def _install_efi(disk: Path, work: Path) -> None:
    joined = work / "BOOTX64.EFI"
    _join_efi(joined, work)
    where = f"{disk}@@{_BOOT_START}"
    run_tool(["mmd", "-i", where, "::EFI", "::EFI/BOOT"], package="mtools", env=_FIXED)
    _copy_to_boot(disk, {"EFI/BOOT/BOOTX64.EFI": joined})


def _join_efi(joined: Path, work: Path) -> None:
    kernel = parts.fetch_kernel()
    sections = {
        ".osrel": b'NAME="Sealift guest"\nID=sealift\n',
        ".cmdline": _COMMAND_LINE.encode() + b"\0",
        ".linux": kernel.image.read_bytes(),
        ".initrd": build_initramfs(kernel, parts.fetch_busybox()),
    }
    # The date is kept because objcopy would put the time of day into the header.
    arguments: list[str | Path] = ["objcopy", "--preserve-dates"]
    # Far above the stub's own sections; each begins at the next 16 MiB or 64 KiB.
    address = 0x20000
    for name, content in sections.items():
        path = work / f"section{name}"
        path.write_bytes(content)
        if name == ".linux":
            address = 0x2000000
        arguments += ["--add-section", f"{name}={path}"]
        arguments += ["--change-section-vma", f"{name}={address:#x}"]
        address += -(-len(content) // 0x10000) * 0x10000
    run_tool([*arguments, parts.efi_stub(), joined], package="binutils", env=_FIXED)


def _fill_root(spec: GuestSpec, tree: Path) -> None:
    for folder in ("bin", "sbin", "dev", "proc", "sys", "data", "etc", "tmp", "run", "var/log"):
        (tree / folder).mkdir(parents=True)
    files = {
        "bin/busybox": parts.fetch_busybox(),
        "bin/writer": parts.build_writer(),
        "sbin/init": _HERE / "root-init.sh",
    }
    if spec.agent:
        files |= {"sbin/start-agent": _HERE / "start-agent.sh"}
        files |= {"sbin/shutdown": _HERE / "shutdown.sh", **agent_files()}
    for name, source in files.items():
        (tree / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source, tree / name)
        (tree / name).chmod(0o755)
    (tree / "etc" / "disks").write_text("2\n" if spec.data_bytes else "1\n")
    for name in ("records", "bulk"):
        (tree / "var" / "log" / name).touch()


def _make_ext4(disk: Path, tree: Path, label: str, uuid: str, start: int, size: int) -> None:
    # Not lazy: the kernel would go on writing inode tables behind the writer's back.
    extended = f"offset={start},lazy_itable_init=0,lazy_journal_init=0,hash_seed={uuid}"
    options = ["-t", "ext4", "-b", "4096", "-m", "0", "-N", "1024", "-L", label, "-U", uuid]
    options += ["-E", f"{extended},root_owner=0:0", "-d", str(tree)]
    run_tool(
        ["mke2fs", "-q", "-F", *options, disk, f"{size // 1024}k"],
        package="e2fsprogs",
        env=_FIXED,
    )
    _fix_times(f"{disk}?offset={start}", tree)


def _fix_times(file_system: str, tree: Path) -> None:
    # mke2fs copies the change time of each file, which nobody can set on the host.
    names = ["/"] + [f"/{path.relative_to(tree)}" for path in sorted(tree.rglob("*"))]
    fields = ("atime", "ctime", "mtime")
    script = "".join(f"sif {name} {field} @{_EPOCH}\n" for name in names for field in fields)
    arguments = ["debugfs", "-w", "-f", "-", file_system]
    run_tool(arguments, package="e2fsprogs", data=script.encode(), env=_FIXED)
