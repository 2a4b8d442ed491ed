"""A process that replicates an image into a folder and ends itself at one call of the store."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from connectors.local.object_folder import FolderObjectStore
from connectors.local.raw_reader import RawFileReader
from sealift.clock import SystemClock
from sealift.endpoints import VmDisk
from sealift.journal import JournalKey, SyncJournal
from sealift.objects_decorator import StoreCall, StoreDecorator
from sealift.repository.session import Repository, RepositoryOptions
from sealift.repository.target import RepositoryTarget
from sealift.sealing.keys import KeyRing, RootKey
from sealift.store import FileStateStore
from sealift.sync import SyncContext, sync
from sealift.units import KiB
from tests.repository.conftest import vm_of
from tests.repository.test_target import INFO

T = TypeVar("T")
CHUNK = 4 * KiB
OPTIONS = RepositoryOptions(chunk_bytes=CHUNK, pack_bytes=256 * KiB)
RING = (RootKey(b"k" * 32), bytes(16), 1)


class KillingStore(StoreDecorator):
    """Kills this process before (even numbers) or after (odd ones) a call."""

    def __init__(self, inner: FolderObjectStore, at: int) -> None:
        super().__init__(inner)
        self.left = at

    def _around(self, call: StoreCall, effect: Callable[[], T]) -> T:
        self.left -= 2
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return effect()
        finally:
            if self.left == 1:
                os.kill(os.getpid(), signal.SIGKILL)


def replicate(folder: Path, kill_at: int = 0) -> None:
    """One point of the image in the folder; killed at a call when that is asked for."""
    state, clock = FileStateStore(folder / "state"), SystemClock()
    store = KillingStore(FolderObjectStore.open(folder / "store"), kill_at)
    repository = Repository.open(store, KeyRing(*RING), state, clock, folder / "cache", OPTIONS)
    reader = RawFileReader(folder / "image.raw")
    disk = VmDisk("vda", reader.size, "virtio-blk")
    target = RepositoryTarget(repository, "plan", state)
    ref = target.begin_snapshot(1, disk, None)
    if target.owned() or repository.head.commit.points == ():
        writer = target.writer(ref, None)
        key = JournalKey.of(reader, writer)
        journal = SyncJournal(state, "journal-vda-1", key, clock)
        sync(reader, writer, SyncContext(clock), journal=journal)
        target.seal_point(1, vm_of(disk), INFO, {"vda": ref}, 1_700_000_000.0)
    repository.close()


if __name__ == "__main__":
    replicate(Path(sys.argv[1]), int(sys.argv[2]))
