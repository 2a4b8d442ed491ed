"""A file system whose block writes and flushes are logged, and what a power cut leaves of it.

qemu-storage-daemon logs every write below a loop device (``blklogwrites``, the layout of
Linux's dm-log-writes); ext4 above it knows nothing of that. A power cut after any flush keeps
everything before the flush and any part of what was written after it.
"""

import os
import shutil
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sealift.clock import SystemClock

SECTOR = 512
DISK_BYTES = 16 << 20
_LOG_BYTES = 1 << 30  # sparse
_SUPER = struct.Struct("<QQQI")
_MAGIC = 0x6A736677736872
_ENTRY = struct.Struct("<QQQQ")
_FLUSH, _FUA, _DISCARD = 1, 2, 4


@dataclass(frozen=True)
class Entry:
    """One logged request: its place on the disk, in bytes, and what came with it."""

    offset: int
    data: bytes
    flush: bool


class BlockLog:
    """Reads the log as it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = SECTOR
        self.entries: list[Entry] = []

    def position(self) -> int:
        """How many entries there are now."""
        with self._path.open("rb") as file:
            while entry := self._next(file.fileno()):
                self.entries.append(entry)
        return len(self.entries)

    def _next(self, fd: int) -> Entry | None:
        sector, count, flags, _ = _ENTRY.unpack(os.pread(fd, _ENTRY.size, self._at))
        if not (count or flags):
            return None
        size = 0 if flags & _DISCARD else count * SECTOR
        data = os.pread(fd, size, self._at + SECTOR)
        self._at += SECTOR + size
        return Entry(sector * SECTOR, data, bool(flags & (_FLUSH | _FUA)))

    def check(self) -> None:
        """The header is that of the layout that this class reads."""
        magic, version, _, sector = _SUPER.unpack(self._path.read_bytes()[: _SUPER.size])
        assert (magic, version, sector) == (_MAGIC, 1, SECTOR)


@contextmanager
def logged_file_system(folder: Path) -> Iterator[tuple[Path, BlockLog]]:
    """An ext4 on a logged disk: where it is mounted, and the log. Nothing of it stays."""
    assert os.geteuid() == 0, "loop devices and mounts need root"
    disk, log, export = folder / "disk", folder / "log", folder / "export"
    for path, size in ((disk, DISK_BYTES), (log, _LOG_BYTES), (export, 0)):
        path.touch()
        os.truncate(path, size)
    with ExitStack() as stack:
        stack.enter_context(_storage_daemon(disk, log, export))
        loop = stack.enter_context(_loop_device(export))
        run("mkfs.ext4", "-q", "-E", "nodiscard", loop)
        mounted = stack.enter_context(mount(Path(loop), folder / "mnt"))
        yield mounted, BlockLog(log)


@contextmanager
def _storage_daemon(disk: Path, log: Path, export: Path) -> Iterator[None]:
    command = ["qemu-storage-daemon"]
    command += ["--blockdev", f"driver=file,node-name=disk,filename={disk}"]
    command += ["--blockdev", f"driver=file,node-name=log,filename={log}"]
    logged = f"driver=blklogwrites,node-name=logged,file=disk,log=log,log-sector-size={SECTOR}"
    command += ["--blockdev", logged]
    command += ["--export", f"fuse,id=e,node-name=logged,mountpoint={export},writable=on"]
    daemon = subprocess.Popen(command)
    try:
        wait_until(lambda: daemon.poll() is not None or export.stat().st_size == DISK_BYTES)
        assert daemon.poll() is None, "qemu-storage-daemon ended"
        yield
    finally:
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(60)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
            subprocess.run(["umount", "--lazy", str(export)], check=False)


@contextmanager
def _loop_device(path: Path) -> Iterator[str]:
    loop = run("losetup", "--find", "--show", str(path)).strip()
    try:
        yield loop
    finally:
        run("losetup", "--detach", loop)


@contextmanager
def mount(source: Path, place: Path, *options: str) -> Iterator[Path]:
    """Mount for as long as the block lasts."""
    place.mkdir(exist_ok=True)
    run("mount", *options, str(source), str(place))
    try:
        yield place
    finally:
        run("umount", str(place))


def after_power_cut(
    entries: Sequence[Entry], base: int, kept: Sequence[Entry], before: Path, image: Path
) -> None:
    """Make the disk that a power cut leaves.

    Args:
        entries: the whole log.
        base: so many entries are all there.
        kept: what else had reached the disk.
        before: an image with a prefix of ``entries``; moved forward to ``base``.
        image: where the disk is made.
    """
    done_path = before.with_suffix(".done")
    done = int(done_path.read_text()) if done_path.exists() else 0
    if not before.exists():
        before.touch()
        os.truncate(before, DISK_BYTES)
    _apply(before, entries[done:base])
    done_path.write_text(str(base))
    shutil.copyfile(before, image)
    _apply(image, kept)


def _apply(image: Path, entries: Sequence[Entry]) -> None:
    with image.open("r+b") as file:
        for entry in entries:
            os.pwrite(file.fileno(), entry.data, entry.offset)


def run(*command: str) -> str:
    """The output of a command that has to succeed."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


def wait_until(holds: Callable[[], bool]) -> None:
    """Poll for a minute."""
    clock = SystemClock()
    until = clock.monotonic() + 60
    while not holds():
        assert clock.monotonic() < until, "it did not happen in time"
        clock.sleep(0.02)
