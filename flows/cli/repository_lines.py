"""Lines of ``--json`` about repositories; see ``flows.cli.lines`` for the rules."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from flows.cli.lines import _DOCUMENTED, Line
from flows.cli.summaries import Summary


@dataclass(frozen=True, kw_only=True)
class KeySlot(Line):
    """One slot of a repository: a secret that opens it."""

    type: Literal["slot"] = field(default="slot", init=False)
    id: str
    kind: str
    """What opens it, with what is known of that without opening it."""
    epoch: int | None
    """The newest root key that it holds; null when it is damaged."""
    opened: bool
    """Whether this run was opened with it."""
    damage: str
    """Why nobody can open it; empty when it is whole."""


@dataclass(frozen=True, kw_only=True)
class StoreFinding(Line):
    """One capability of a store, tried."""

    type: Literal["store-finding"] = field(default="store-finding", init=False)
    capability: str
    verdict: Literal["good", "degraded", "bad", "note"]
    """Degraded: a repository works, with the restriction that is said; bad: keep none there."""
    seen: str
    next: str
    """What to do about it; empty when nothing is to be done."""


@dataclass(frozen=True, kw_only=True)
class PointLine(Line):
    """One recovery point."""

    type: Literal["point"] = field(default="point", init=False)
    id: str
    machine: str
    """UUID of the machine."""
    replication: str
    seq: int
    """Number of the point in its replication."""
    taken: float
    """Seconds of the epoch, by the clock of the replicating host."""
    age_seconds: float
    size_bytes: int
    """Of all disks, as the guest sees them."""
    pinned: bool
    manifest: str
    """Name of the object that says what the point is."""


@dataclass(frozen=True, kw_only=True)
class DiskOfPoint:
    """One disk of a point."""

    __pydantic_config__: ClassVar = _DOCUMENTED

    disk: str
    size_bytes: int
    bus: str
    """The controller it hung on."""


@dataclass(frozen=True, kw_only=True)
class PointDetails(Line):
    """What a recovery point is a point of."""

    type: Literal["point-details"] = field(default="point-details", init=False)
    id: str
    vm: str
    firmware: str
    architecture: str
    vcpus: int
    memory_bytes: int
    consistency: str
    note: str
    """One sentence on the consistency."""
    tool: str
    """Name and version of what made the point."""
    disks: Sequence[DiskOfPoint]


@dataclass(frozen=True, kw_only=True)
class Difference(Line):
    """How one disk differs between two points."""

    type: Literal["difference"] = field(default="difference", init=False)
    disk: str
    only_in: Literal["first", "second"] | None
    """Which of the points has the disk; null when both have."""
    changed_bytes: int
    """In whole chunks; of a disk that only one point has, its data."""
    zeroed_bytes: int
    """Of the changed ones: what reads as zeroes in the second point."""
    ranges: int
    """How many ranges changed."""


@dataclass(frozen=True, kw_only=True)
class RestoredDisk(Line):
    """A disk of a point that was restored."""

    type: Literal["restored"] = field(default="restored", init=False)
    disk: str
    to: str
    """Path of the file, or id of the snapshot."""
    size_bytes: int
    written_bytes: int
    """The rest reads as zeroes without being written."""
    restore_seconds: float


@dataclass(frozen=True, kw_only=True)
class ServedDisk(Line):
    """A disk of a point that is served until the command ends."""

    type: Literal["served"] = field(default="served", init=False)
    disk: str
    uri: str
    """What NBD clients connect to."""
    size_bytes: int
    writable: bool
    """What is written is kept beside the point until the command ends."""


@dataclass(frozen=True, kw_only=True)
class DrillLine(Line):
    """A machine that was started from a point."""

    type: Literal["drill"] = field(default="drill", init=False)
    point: str
    vm: str
    proof: str
    """What was seen on its console."""
    recovery_seconds: float
    """From the command's start until the proof was seen."""
    boot_seconds: float
    """Of these, since the power was switched on."""
    picture: str
    """Path of its screen, as PNG."""
    console: str
    """Path of what it said."""


@dataclass(frozen=True, kw_only=True)
class DamageLine(Line):
    """Something in a repository that is missing or does not open."""

    type: Literal["damage"] = field(default="damage", init=False)
    what: str
    """A pack, the table of one, a chunk, a node or a manifest, by its name."""
    why: str
    points: Sequence[str]
    """Ids of the points that cannot be restored as a whole because of it."""


@dataclass(frozen=True, kw_only=True)
class VerdictLine(Line):
    """What retention says of one point."""

    type: Literal["verdict"] = field(default="verdict", init=False)
    point: str
    taken: float
    """Seconds of the epoch."""
    kept: bool
    rules: Sequence[str]
    """That keep it."""


# ---------------------------------------------------------------------- last lines


@dataclass(frozen=True, kw_only=True)
class RepositoryMade(Summary):
    """A new repository."""

    command: Literal["repository init"] = field(default="repository init", init=False)
    repository: str
    """Its id."""
    place: str


@dataclass(frozen=True, kw_only=True)
class RepositoryChecked(Summary):
    """Nothing is damaged."""

    command: Literal["repository check", "verify"]
    points: int
    packs: int
    """That the points stand on."""
    read_packs: int
    """Of these, read as a whole, every chunk opened and hashed."""
    read_chunks: int
    untried_codes: int
    """Slots whose recovery code was never tried on this host, or not for 90 days."""


@dataclass(frozen=True, kw_only=True)
class Pruned(Summary):
    """What a prune did, or with ``--preview`` would do."""

    command: Literal["repository prune"] = field(default="repository prune", init=False)
    preview: bool
    dropped: int
    """Points that are live no more."""
    condemned_objects: int
    """That went into quarantine."""
    condemned_bytes: int
    doomed_objects: int
    """Whose quarantine is over; they are deleted by the next prune."""
    doomed_bytes: int
    deleted_objects: int
    denied_objects: int
    """That the store did not let us delete."""
    repacked_objects: int
    """Packs mostly needed no more, whose needed chunks are in new ones; they are condemned, too."""
    repacked_bytes: int


@dataclass(frozen=True, kw_only=True)
class StoreChecked(Summary):
    """A repository may be kept in this store."""

    command: Literal["repository check-store"] = field(default="repository check-store", init=False)
    place: str
    verdict: Literal["good", "degraded"]


@dataclass(frozen=True, kw_only=True)
class KeysListed(Summary):
    """The slots of a repository."""

    command: Literal["repository keys list"] = field(default="repository keys list", init=False)
    slots: int


@dataclass(frozen=True, kw_only=True)
class KeysChanged(Summary):
    """A slot was added or removed; the text says what that does not protect."""

    command: Literal["repository keys add", "repository keys remove"]
    slot: str


@dataclass(frozen=True, kw_only=True)
class EpochBegun(Summary):
    """New data is sealed under a new root key; the text says what that does not protect."""

    command: Literal["repository keys new-epoch"] = field(
        default="repository keys new-epoch", init=False
    )
    epoch: int
    slots: int
    """That open it."""
    removed: int
    kept: int
    """Old slots that the store did not let us delete."""


@dataclass(frozen=True, kw_only=True)
class Resealed(Summary):
    """What points stand on is under the newest keys; the text says what that does not protect."""

    command: Literal["repository reseal"] = field(default="repository reseal", init=False)
    epoch: int
    chunks: int
    packs: int
    points: int
    """Whose manifests were sealed anew."""
    stored_bytes: int


@dataclass(frozen=True, kw_only=True)
class Repaired(Summary):
    """The index was made anew from the packs, or would be."""

    command: Literal["repository repair"] = field(default="repository repair", init=False)
    packs: int
    """Whose table could be read; the new index names them."""
    unreadable: Sequence[str]
    """Packs whose table could not be read; what they hold is lost to the new index."""
    preview: bool


@dataclass(frozen=True, kw_only=True)
class PointsListed(Summary):
    """The recovery points of a repository."""

    command: Literal["points list"] = field(default="points list", init=False)
    repository: str
    points: int
    receipt: str
    """Proves later that this state was there."""


@dataclass(frozen=True, kw_only=True)
class PointShown(Summary):
    """A recovery point."""

    command: Literal["points show"] = field(default="points show", init=False)
    point: str


@dataclass(frozen=True, kw_only=True)
class PointsCompared(Summary):
    """Two recovery points."""

    command: Literal["points diff"] = field(default="points diff", init=False)
    first: str
    second: str
    changed_bytes: int


@dataclass(frozen=True, kw_only=True)
class Replicated(Summary):
    """A new point is in the repository."""

    command: Literal["replicate", "abandon"]
    replication: str
    vm: str
    receipt: str
    """What proves later that the point was there; empty after ``abandon``."""


@dataclass(frozen=True, kw_only=True)
class Watched(Summary):
    """The newest point is as young as the plan demands."""

    command: Literal["watch"] = field(default="watch", init=False)
    replication: str
    point: str
    age_seconds: float
    rpo_seconds: float


@dataclass(frozen=True, kw_only=True)
class Undeleted(Summary):
    """What hid objects of the bucket, and with ``--preview`` still does."""

    command: Literal["repository undelete"] = field(default="repository undelete", init=False)
    preview: bool
    markers: int
    versions: int
    """Newer contents under names that are used once."""
    objects: int


@dataclass(frozen=True, kw_only=True)
class PointPinned(Summary):
    """Retention has no say on a point any more, or has it again."""

    command: Literal["points pin", "points unpin"]
    point: str
    pinned: bool
    receipt: str
    """Proves later that the repository was once this far."""


@dataclass(frozen=True, kw_only=True)
class PointDropped(Summary):
    """A point is live no more; what only it needs goes with later prunes."""

    command: Literal["points drop"] = field(default="points drop", init=False)
    point: str
    points: int
    """How many are left."""
    receipt: str
    """Proves later that the repository was once this far."""


@dataclass(frozen=True, kw_only=True)
class PointRestored(Summary):
    """Disks of a point were restored."""

    command: Literal["restore"] = field(default="restore", init=False)
    point: str
    disks: int
    written_bytes: int


@dataclass(frozen=True, kw_only=True)
class Unmounted(Summary):
    """Nothing is served any more."""

    command: Literal["mount"] = field(default="mount", init=False)
    point: str


@dataclass(frozen=True, kw_only=True)
class FailedOverTo(Summary):
    """A machine was started from a point, in the account of the plan."""

    command: Literal["failover"] = field(default="failover", init=False)
    planned: bool
    """The source was stopped for it, and synced once more."""
    point: str
    instance_id: str
    rpo_seconds: float
    """Age of the point when the command began: what the machine does not know; planned: 0."""
    rto_seconds: float
    """Until the machine was healthy: from the command's start, or from when the source stopped."""


@dataclass(frozen=True, kw_only=True)
class PutBack(Summary):
    """A planned failover is undone."""

    command: Literal["failover"] = field(default="failover", init=False)
    vm: str
    source_runs_again: bool
    """False: none was under way, and only what had been prepared was removed."""


@dataclass(frozen=True, kw_only=True)
class Drilled(Summary):
    """The point boots."""

    command: Literal["drill"] = field(default="drill", init=False)
    point: str
    recovery_seconds: float
