"""The initial file system: busybox, the modules that find a root disk, one script."""

import gzip
import re
import stat
from pathlib import Path

from sandbox.guest.parts import Kernel
from sealift.errors import ToolError

_HERE = Path(__file__).parent

# NVMe and ext4 are built into Debian's cloud kernel. The rest lets the same disk boot on
# virtio, SCSI, IDE, Hyper-V and Xen machines, and hear the power button.
WANTED_MODULES = (
    "virtio_pci",
    "virtio_blk",
    "virtio_scsi",
    "sd_mod",
    "ata_piix",
    "hv_storvsc",
    "xen-blkfront",
    "virtio_console",
    "virtio_net",
    "button",
    "evdev",
)
_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


def build_initramfs(kernel: Kernel, busybox: Path) -> bytes:
    """A gzipped cpio archive; equal inputs give equal bytes."""
    modules = _load_order(kernel)
    archive = bytearray()
    for folder in ("bin", "dev", "modules"):
        archive += _entry(folder, stat.S_IFDIR | 0o755, b"")
    archive += _entry("dev/console", stat.S_IFCHR | 0o600, b"", device=(5, 1))
    archive += _entry("bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes())
    archive += _entry("init", stat.S_IFREG | 0o755, (_HERE / "initramfs-init.sh").read_bytes())
    for path in modules:
        archive += _entry(f"modules/{path.name}", stat.S_IFREG | 0o644, path.read_bytes())
    order = "".join(f"{path.name}\n" for path in modules)
    archive += _entry("modules/order", stat.S_IFREG | 0o644, order.encode())
    archive += _entry("TRAILER!!!", 0, b"")
    return gzip.compress(bytes(archive), compresslevel=6, mtime=0)


def _entry(name: str, mode: int, data: bytes, device: tuple[int, int] = (0, 0)) -> bytes:
    # "newc" of the kernel's Documentation/driver-api/early-userspace/buffer-format.rst; written
    # here because a device node in an archive needs no root, unlike one on a file system.
    encoded = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + encoded) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _load_order(kernel: Kernel) -> list[Path]:
    # depmod's list is not in the package; each module names what it needs.
    files = {_plain(path.stem): path for path in kernel.modules.rglob("*.ko")}
    ordered: dict[str, Path] = {}
    for name in WANTED_MODULES:
        if _plain(name) not in files:
            raise ToolError(f"the kernel in {kernel.modules} has no module {name}")
        _add_with_needs(_plain(name), files, ordered)
    return list(ordered.values())


def _add_with_needs(name: str, files: dict[str, Path], ordered: dict[str, Path]) -> None:
    if name in ordered or name not in files:
        return
    match = _DEPENDS.search(files[name].read_bytes())
    for need in (match[1].decode() if match else "").split(","):
        _add_with_needs(_plain(need), files, ordered)
    ordered[name] = files[name]


def _plain(module: str) -> str:
    return module.replace("-", "_")
