"""What the service says about the staging blob of a disk: the base and its points.

The base's metadata says which point its bytes belong to:

- ``pending``: they are being made equal to point ``seq``, on top of point ``parent``;
- ``done``: they are exactly point ``seq``, of which there is a blob snapshot;
- ``reset``: the bytes of ``parent`` are being put back over them;
- ``void``: they are to be trusted for nothing.

A point exists when there is a blob snapshot with its number (I6); nothing else counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from connectors.azure.actions import READ
from connectors.azure.errors import azure_call, field_of
from connectors.azure.session import AzureClients
from converters.vhd import FOOTER_BYTES

if TYPE_CHECKING:
    from azure.storage.blob import BlobProperties

_MIGRATION = "sealift_migration"
_STATE = "sealift_state"
_SEQ = "sealift_seq"
_PARENT = "sealift_parent"
_GENERATION = "sealift_generation"


class State(Enum):
    """See the module's text; POINT is what a blob snapshot says, IMAGE what a copy of one says."""

    PENDING = "pending"
    DONE = "done"
    RESET = "reset"
    VOID = "void"
    POINT = "point"
    IMAGE = "image"


@dataclass(frozen=True, slots=True)
class Label:
    """Our metadata of a blob.

    Attributes:
        migration: whose it is.
        state: see ``State``.
        seq: the point that the bytes belong to.
        parent: the point that it is built upon.
        generation: another one whenever the bytes under construction were begun anew, so
            that nobody goes on with a journal of bytes that are gone.
    """

    migration: str
    state: State
    seq: int
    parent: int | None
    generation: str

    def metadata(self) -> dict[str, str]:
        """As the service stores it: ASCII values, names that are C# identifiers."""
        return {
            _MIGRATION: self.migration.encode("ascii", "backslashreplace").decode(),
            _STATE: self.state.value,
            _SEQ: str(self.seq),
            _PARENT: "" if self.parent is None else str(self.parent),
            _GENERATION: self.generation,
        }


def label_of(metadata: Mapping[str, str] | None) -> Label | None:
    """Our label; None when there is none that makes sense."""
    lower = {name.lower(): value for name, value in (metadata or {}).items()}
    try:
        parent = lower.get(_PARENT, "")
        return Label(
            migration=lower[_MIGRATION],
            state=State(lower[_STATE]),
            seq=int(lower[_SEQ]),
            parent=int(parent) if parent else None,
            generation=lower[_GENERATION],
        )
    except (KeyError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class Base:
    """The staging blob itself.

    Attributes:
        etag: changes with every write.
        size: bytes with the footer.
        label: ours; None when it is not ours.
        leased: whether anybody holds it.
        copy_status: of the last copy into it: "", pending, success, aborted, failed.
    """

    etag: str
    size: int
    label: Label | None
    leased: bool
    copy_status: str


@dataclass(frozen=True, slots=True)
class Point:
    """A blob snapshot that is a point.

    Attributes:
        blob: name of its base.
        stamp: the service's name of the snapshot, its time.
        size: bytes of the disk, without the footer.
        label: ours.
    """

    blob: str
    stamp: str
    size: int
    label: Label


@dataclass(frozen=True, slots=True)
class Chain:
    """A staging blob with everything that belongs to it.

    Attributes:
        name: of the blob.
        base: None when there is no such blob.
        points: by number, oldest snapshot of each first; more than one when the answer to
            Snapshot Blob was lost, and then the first counts.
    """

    name: str
    base: Base | None
    points: Mapping[int, tuple[Point, ...]]

    def point(self, seq: int) -> Point | None:
        """The point, if it exists."""
        found = self.points.get(seq)
        return found[0] if found else None


@dataclass(frozen=True, slots=True)
class Chains:
    """Looks at staging blobs: one listing says all.

    What was written shows in the next listing ("Data redundancy in Azure Storage": writes
    are acknowledged once all copies in the primary region have them).

    Args:
        clients: SDK clients.
    """

    clients: AzureClients

    def of(self, name: str) -> Chain:
        """One staging blob by its name."""
        return self.below(name).get(name) or Chain(name, None, {})

    def below(self, prefix: str) -> dict[str, Chain]:
        """All blobs whose names begin with ``prefix``, and their snapshots."""
        found: dict[str, list[BlobProperties]] = {}
        with azure_call(READ):
            pages = self.clients.container.list_blobs(
                name_starts_with=prefix, include=["snapshots", "metadata", "copy"]
            )
            for blob in pages:
                found.setdefault(blob.name, []).append(blob)
        return {name: _chain(name, blobs) for name, blobs in found.items()}


def _chain(name: str, blobs: "list[BlobProperties]") -> Chain:
    base = next((_base(blob) for blob in blobs if not blob.snapshot), None)
    points: dict[int, tuple[Point, ...]] = {}
    for blob in sorted((b for b in blobs if b.snapshot), key=lambda b: str(b.snapshot)):
        label = label_of(blob.metadata)
        if label is not None and label.state is State.POINT:
            point = Point(name, str(blob.snapshot), int(blob.size) - FOOTER_BYTES, label)
            points[label.seq] = (*points.get(label.seq, ()), point)
    return Chain(name, base, points)


def _base(blob: Any) -> Base:
    etag = str(field_of({"Etag": blob.etag}, "Etag", READ))
    quoted = etag if etag.startswith('"') else f'"{etag}"'
    return Base(
        etag=quoted,
        size=int(blob.size),
        label=label_of(blob.metadata),
        leased=blob.lease.state in ("leased", "breaking") or blob.lease.status == "locked",
        copy_status=str(blob.copy.status or ""),
    )
