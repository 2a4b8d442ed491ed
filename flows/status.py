"""Where a migration stands, from its state folder alone; also while another run is active."""

import os
from dataclasses import dataclass
from pathlib import Path

from flows.beat import BEAT_SECONDS, Beat, load_beat
from flows.drill_records import DRILLS_NAME, DrillHistory, load_drills, load_trials
from flows.liveness import Liveness
from flows.places import REPLICA_NAME, REPLICATIONS
from flows.wording import lag_seconds
from sealift.convergence import ConvergencePolicy, Forecast, RoundFigures, forecast
from sealift.errors import UsageError
from sealift.ledger import STATE_NAME, load_migration
from sealift.migration import Migration
from sealift.store import FileStateStore, lock_owner

STALLED_SECONDS = 120.0
_KNOWN_BY = (STATE_NAME, DRILLS_NAME)
"""Where points are only drilled, there is no record of making them."""
_SILENT_SECONDS = 6 * BEAT_SECONDS


@dataclass(frozen=True, slots=True)
class Holder:
    """The run that owns a migration."""

    pid: int
    run: str


@dataclass(frozen=True, slots=True)
class Status:
    """Everything that ``status`` shows.

    Attributes:
        migration: the record; None when a run has only begun.
        name: of the migration.
        directory: its state.
        liveness: see ``Liveness``.
        holder: the run that owns it now.
        beat: the last sign of life.
        lag_seconds: age of the newest durable point.
        forecast: of the final sync, as of the end of the newest round; none for a replication.
        replicates: it is a replication's: its points are in a repository, nothing is cut over.
        drills: how the last drill of its machine ended here, if there was one.
        code_tried: when a recovery code last opened its repository in a drill here, seconds of the
            epoch.
    """

    migration: Migration | None
    name: str
    directory: Path
    liveness: Liveness
    holder: Holder | None
    beat: Beat | None
    lag_seconds: float | None
    forecast: Forecast | None
    replicates: bool = False
    drills: DrillHistory | None = None
    code_tried: float | None = None


def read_status(directory: Path, now: float, policy: ConvergencePolicy) -> Status:
    """Read a state folder; nothing in it is changed and no lock is taken.

    Args:
        directory: of one migration.
        now: seconds of the epoch.
        policy: what the forecast is judged by.

    Raises:
        UsageError: there is no migration in it.
        LocalStateError: the record is damaged.
    """
    if not directory.is_dir():
        raise UsageError(f"no migration in {directory}", next_step="sealift migrate begins one")
    store = FileStateStore(directory)
    migration, beat, holder = load_migration(store), load_beat(store), lock_holder(directory)
    drills = load_drills(store)
    replicates = store.load(REPLICA_NAME) is not None or (migration is None and drills is not None)
    if migration is None and holder is None and drills is None:
        raise UsageError(f"no migration in {directory}", next_step="sealift migrate begins one")
    return Status(
        migration,
        migration.id if migration else directory.name,
        directory,
        _liveness(holder, beat, now),
        holder,
        beat,
        lag_seconds(migration, now) if migration else None,
        _forecast(migration, policy) if migration and not replicates else None,
        replicates,
        drills,
        max(load_trials(store).values(), default=None),
    )


def _liveness(holder: Holder | None, beat: Beat | None, now: float) -> Liveness:
    if holder is None:
        return Liveness.INTERRUPTED if beat is not None else Liveness.IDLE
    if beat is None:
        return Liveness.RUNNING
    if now - beat.at > _SILENT_SECONDS:
        return Liveness.SILENT
    return Liveness.STALLED if beat.quiet_seconds > STALLED_SECONDS else Liveness.RUNNING


def _forecast(m: Migration, policy: ConvergencePolicy) -> Forecast | None:
    figures = [
        RoundFigures(r.sent_bytes, r.dirty_bytes, r.seconds, r.dirty_after_bytes) for r in m.history
    ]
    return forecast(figures, policy) if figures else None


def lock_holder(directory: Path) -> Holder | None:
    """Who holds the lock, as the kernel says, without taking it even for a moment."""
    path = directory / "lock"
    try:
        inode = path.stat().st_ino
        locks = Path("/proc/locks").read_text()
    except OSError:
        return None
    for line in locks.splitlines():
        words = line.split()
        if len(words) >= 6 and words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(inode):
            pid = int(words[4]) if words[4].isdigit() else 0
            known = lock_owner(path)
            return Holder(known.pid, known.run) if known else Holder(pid, "unknown run")
    return None


def migrations_in(home: Path) -> list[Path]:
    """Folders of migrations below the state home, then those of replications."""
    return [*_folders(home), *_folders(home / REPLICATIONS)]


def _folders(home: Path) -> list[Path]:
    if not home.is_dir():
        return []
    with os.scandir(home) as entries:
        found = [Path(e.path) for e in entries if e.is_dir() and not e.name.startswith(".")]
    return sorted(p for p in found if any((p / name).exists() for name in _KNOWN_BY))
