"""The migration's record: changed by events, saved after each one."""

import threading
from collections.abc import Callable

from sealift.blockmap import BlockMap
from sealift.errors import LocalStateError
from sealift.migration import Migration
from sealift.store import StateStore

STATE_NAME = "migration.json"
OF_DISKS = ("map-", "journal-", "brought-", "progress-")
"""What names of things begin with that belong to one disk in one round; see ``Ledger.tidy``."""


def map_name(disk_id: str, seq: int) -> str:
    """Name of the block map of one disk's point."""
    return f"map-{disk_id}-{seq}"


def journal_name(disk_id: str, seq: int) -> str:
    """Name of the journal of one disk's sync."""
    return f"journal-{disk_id}-{seq}"


def load_block_map(store: StateStore, disk_id: str, seq: int) -> BlockMap | None:
    """Digests of one disk's point; None when they are gone or damaged.

    Without them a sync sends more than it must, never less.
    """
    data = store.load(map_name(disk_id, seq))
    if data is None:
        return None
    try:
        return BlockMap.from_bytes(data)
    except LocalStateError:
        return None


def load_migration(store: StateStore) -> Migration | None:
    """The record as last saved; None when there is none."""
    data = store.load(STATE_NAME)
    return None if data is None else Migration.from_bytes(data)


class Ledger:
    """Holds the current value; every event is durable before it counts. Thread-safe.

    Attributes:
        save_failed: the newest event could not be saved; whether it is stored is unknown.
    """

    def __init__(self, store: StateStore, migration: Migration) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._now = migration
        self.save_failed = False

    @property
    def now(self) -> Migration:
        """The value as last saved."""
        return self._now

    def record(self, event: Callable[[Migration], Migration]) -> Migration:
        """Apply an event and save the result; on failure nothing has changed."""
        with self._lock:
            changed = event(self._now)
            self.save_failed = True
            self._keep(changed)
            self.save_failed = False
            self._now = changed
            return changed

    def _keep(self, changed: Migration) -> None:
        self._store.save(STATE_NAME, changed.to_bytes())

    def save_block_map(self, disk_id: str, seq: int, blocks: BlockMap) -> None:
        """Keep the digests of one disk's point."""
        self._store.save(map_name(disk_id, seq), blocks.to_bytes())

    def tidy(self) -> None:
        """Remove what no point and no round needs any more; at the end of a round.

        What workers in other processes left behind, too: they have brought all they were asked
        for, or were given up.
        """
        m = self._now
        needed = {map_name(b.disk_id, b.seq) for b in m.bases}
        if m.round is not None:
            for disk in m.round.disks:
                needed.add(map_name(disk.lineage.disk_id, m.round.seq))
                needed.add(journal_name(disk.lineage.disk_id, m.round.seq))
        for name in sorted(self._store.names()):
            if name.startswith(OF_DISKS) and name not in needed:
                self._store.delete(name)


class UnsavedLedger(Ledger):
    """Goes on from a record that can no longer be written, and keeps nothing.

    For the one thing that may not wait for room on a disk: that the machine runs again.
    """

    def _keep(self, changed: Migration) -> None:
        pass
