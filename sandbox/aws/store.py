"""Where block files live: a private directory, emptied when the sandbox starts."""

import fcntl
import os
import shutil
import stat
import threading
from pathlib import Path

from sandbox.aws.blocks import Layer


class BlockStore:
    """Makes layers under one directory (mode 0700).

    Nothing survives a restart, as the account's metadata does not either: leftovers of an
    earlier run are removed. Refuses a directory that belongs to somebody else or that
    another running sandbox uses (``BlockingIOError``).
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = os.lstat(directory)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise PermissionError(f"{directory} is not a directory of this user")
        directory.chmod(0o700)
        flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        self._lock_file = os.open(directory / "lock", flags, 0o600)
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock_file)
            raise
        self._layers = directory / "layers"
        shutil.rmtree(self._layers, ignore_errors=True)
        self._layers.mkdir(mode=0o700)
        self._count = 0
        self._lock = threading.Lock()

    def new_layer(self, name: str) -> Layer:
        """An empty layer, held once."""
        with self._lock:
            self._count += 1
            return Layer(self._layers / f"{self._count:06d}-{name}")

    def close(self) -> None:
        """Remove all block files and let the directory go."""
        shutil.rmtree(self._layers, ignore_errors=True)
        os.close(self._lock_file)
