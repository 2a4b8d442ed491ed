"""The raw material of the guest: Debian's cloud kernel, busybox, boot loaders, the writer.

Kernel and busybox are downloaded with ``apt-get download`` and unpacked into a cache
folder, which needs no root and installs nothing on the host. Boot loaders and firmware
come from installed packages. Nothing here asks the network for anything but apt.
"""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sandbox.guest.tools import find_tool, need_file, run_tool
from sealift.errors import ToolError

_KERNEL = "linux-image-cloud-amd64"
_HERE = Path(__file__).parent
_WRITER_SOURCES = ("writer.c", "work.c", "scan.c", "layout.c", "console.c", "layout.h")


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel package.

    Attributes:
        image: the compressed kernel, with an EFI stub.
        modules: folder of its modules, uncompressed ``.ko`` files.
    """

    image: Path
    modules: Path


def cache_folder() -> Path:
    """Where parts and built images are kept, readable by the user only.

    ``$SEALIFT_CACHE/guest`` or ``~/.cache/sealift/guest``. It may be deleted at any time;
    deleting it is also how a newer kernel gets in.
    """
    base = os.environ.get("SEALIFT_CACHE")
    folder = (Path(base) if base else Path.home() / ".cache" / "sealift") / "guest"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """The folder ``name`` of the cache, made once.

    Args:
        name: one path component; holds everything that the content depends on.
        make: fills an empty folder.

    Returns:
        A complete folder: it appears by a rename, so a killed build leaves nothing that
        looks finished, and of two builds at once one wins.
    """
    folder = cache_folder() / name
    if folder.exists():
        return folder
    work = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache_folder()))
    try:
        make(work)
        try:
            work.rename(folder)
        except OSError:
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def fetch_package(package: str) -> Path:
    """The unpacked files of a Debian package that is not installed.

    Raises:
        ToolError: apt does not know the package or cannot download it.
    """
    return cached(f"package-{package}", lambda folder: _download(package, folder))


def fetch_kernel() -> Kernel:
    """The cloud kernel that apt offers when the cache is empty."""
    folder = cached("kernel", lambda work: _download(_current_kernel(), work))
    images = sorted(folder.glob("boot/vmlinuz-*"))
    if not images:
        raise ToolError(f"no kernel in {folder}", next_step=f"rm -r {folder}")
    release = images[-1].name.removeprefix("vmlinuz-")
    return Kernel(images[-1], folder / "lib" / "modules" / release)


def fetch_busybox() -> Path:
    """A static busybox."""
    return fetch_package("busybox-static") / "bin" / "busybox"


def build_writer() -> Path:
    """The writer, linked statically: it runs in a root file system without libraries."""
    digest = hashlib.sha256(run_tool(["gcc", "--version"], package="gcc").encode())
    for source in _WRITER_SOURCES:
        digest.update((_HERE / source).read_bytes())
    folder = cached(f"writer-{digest.hexdigest()[:16]}", _compile)
    return folder / "writer"


def syslinux_mbr() -> Path:
    """440 bytes of boot code that start the active partition."""
    return need_file(Path("/usr/lib/syslinux/mbr/mbr.bin"), "syslinux-common")


def efi_stub() -> Path:
    """The stub of systemd, which starts the kernel joined to it."""
    return need_file(Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub"), "systemd-boot-efi")


def ovmf_code() -> Path:
    """UEFI firmware without Secure Boot."""
    return need_file(Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), "ovmf")


def ovmf_vars() -> Path:
    """Empty UEFI variables; every machine starts from a fresh copy."""
    return need_file(Path("/usr/share/OVMF/OVMF_VARS_4M.fd"), "ovmf")


def _current_kernel() -> str:
    depends = run_tool(["apt-cache", "depends", _KERNEL], package="apt")
    match = re.search(r"Depends: (linux-image-\S+)", depends)
    if not match:
        raise ToolError(f"apt does not know {_KERNEL}", next_step="sudo apt-get update")
    return match[1]


def _download(package: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="apt-", dir=cache_folder()) as work:
        try:
            run_tool(["apt-get", "download", package], package="apt", cwd=Path(work))
        except ToolError as error:
            raise ToolError(
                f"cannot download {package}: {error.message}",
                next_step="sudo apt-get update",
                package=package,
            ) from error
        archive = next(Path(work).glob("*.deb"))
        run_tool(["dpkg", "-x", archive, folder], package="dpkg")


def _compile(folder: Path) -> None:
    find_tool("gcc", "gcc libc6-dev")
    need_file(Path("/usr/include/stdio.h"), "libc6-dev")
    sources = [name for name in _WRITER_SOURCES if name.endswith(".c")]
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-s"]
    run_tool(["gcc", *flags, "-o", folder / "writer", *sources], package="gcc libc6-dev", cwd=_HERE)
