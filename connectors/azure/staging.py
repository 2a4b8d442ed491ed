"""Staging: one page blob per disk, written in rounds, a blob snapshot per point.

Where a lost write would hide: the engine leaves out blocks that are equal to the parent
point. If a round is given up after it wrote a block, and the guest puts the block's old bytes
back, the next round leaves that block out, and the page blob still holds the given-up bytes.
So no point is ever built on anything but the exact bytes of its parent: what an aborted round
left behind is first overwritten with the parent's blob snapshot ("Snapshot Blob", section
"Copying snapshots": a snapshot can be promoted by copying it over its base).
"""

import logging
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from azure.core import MatchConditions

from connectors.azure.actions import DELETE, WRITE
from connectors.azure.chain import Base, Chain, Chains, Label, Point, State
from connectors.azure.errors import MissingError, azure_call, code_of, field_of
from connectors.azure.leases import Leases, is_not_held, lease_lost
from connectors.azure.names import Owner, footer_id, parse_snapshot_id, snapshot_id
from connectors.azure.session import AzureClients
from converters.vhd import FOOTER_BYTES, fixed_footer
from sealift.endpoints import SnapshotRef, SnapshotState, VmDisk
from sealift.errors import IntegrityError, LockedError, TargetError, TransientError
from sealift.units import MiB, TiB, format_size, round_up
from sealift.wait import Waiter

log = logging.getLogger(__name__)

MAX_PAGE_BLOB_BYTES = 8 * TiB
""""Scalability and performance targets for Blob storage", maximum size of a page blob."""

_FOOTER_CREATED = datetime(2020, 1, 1, tzinfo=UTC)
"""The same each time, so that a footer that is written again is the same bytes."""

_RACED = frozenset(
    {"ConditionNotMet", "TargetConditionNotMet", "BlobAlreadyExists", "PendingCopyOperation"}
)


def disk_bytes(size: int) -> int:
    """Bytes of the disk in Azure: whole MiB ("Upload a generic VHD")."""
    return round_up(max(size, 1), MiB)


@dataclass(frozen=True, slots=True)
class Staging:
    """The staging blobs of one migration.

    Args:
        clients: SDK clients.
        owner: whose they are.
        waiter: for copies in the service.
        copy_timeout_seconds: longest wait for one.
    """

    clients: AzureClients
    owner: Owner
    waiter: Waiter
    copy_timeout_seconds: float

    @property
    def chains(self) -> Chains:
        """What there is."""
        return Chains(self.clients)

    @property
    def leases(self) -> Leases:
        """Who may write."""
        return Leases(self.clients, self.owner)

    # ------------------------------------------------------------------ begin

    def begin(self, seq: int, disk: VmDisk, parent: SnapshotRef | None) -> SnapshotRef:
        """Start (or find) the writing of ``disk`` at point ``seq`` on top of ``parent``.

        Afterwards the blob is held under this point's lease and its bytes are the parent's
        (or zeroes), plus what this same point has written already.

        Raises:
            TargetError: the disk outgrew the parent or a page blob; the parent is gone.
            LockedError: somebody else holds the blob.
            TransientError: it changed meanwhile, or a copy is still under way; repeat it.
        """
        name = self.owner.blob_name(disk.id)
        size = self._size(disk, parent)
        ref = SnapshotRef(snapshot_id(name, seq), size)
        chain = self.chains.of(name)
        self._check_ours(chain)
        base_point = self._parent_point(chain, parent)
        if chain.point(seq) is not None:
            return ref
        wanted = Label(
            migration=self.owner.migration_id,
            state=State.PENDING,
            seq=seq,
            parent=None if base_point is None else base_point.label.seq,
            generation=uuid.uuid4().hex,
        )
        with races_again(name):
            self._prepare(chain, wanted, base_point, size + FOOTER_BYTES)
        return ref

    def _size(self, disk: VmDisk, parent: SnapshotRef | None) -> int:
        size = disk_bytes(disk.size)
        if size + FOOTER_BYTES > MAX_PAGE_BLOB_BYTES:
            raise TargetError(
                f"disk {disk.id} of {format_size(disk.size)} and its VHD footer exceed the "
                f"{format_size(MAX_PAGE_BLOB_BYTES)} of a page blob",
                next_step="make the disk smaller at the source, or leave it out of the migration",
                disk=disk.id,
            )
        if parent is not None and size != parent.size:
            raise TargetError(
                f"disk {disk.id} of {format_size(disk.size)} does not fit its parent "
                f"{parent.id} of {format_size(parent.size)}",
                next_step="start this disk again with a full copy",
                disk=disk.id,
                parent=parent.id,
            )
        return size

    def _check_ours(self, chain: Chain) -> None:
        """A blob of this name that another program made is never overwritten."""
        base = chain.base
        if base is None:
            return
        if base.label is None or base.label.migration != self.owner.migration_id:
            raise TargetError(
                f"blob {chain.name} exists and was not made by this migration",
                next_step="choose another migration id or container, or remove the blob",
                blob=chain.name,
            )

    def _parent_point(self, chain: Chain, parent: SnapshotRef | None) -> Point | None:
        if parent is None:
            return None
        parsed = parse_snapshot_id(parent.id)
        point = chain.point(parsed[1]) if parsed and parsed[0] == chain.name else None
        if point is None or point.size != parent.size:
            raise TargetError(
                f"parent snapshot {parent.id} is gone",
                next_step="start this disk again with a full copy",
                parent=parent.id,
            )
        return point

    def _prepare(self, chain: Chain, wanted: Label, parent: Point | None, size: int) -> None:
        base = chain.base
        if base is None:
            base = self._create(chain.name, wanted, size)
        held = self.leases.kept(chain.name, wanted.seq, base.label)
        if held and _goes_on(base, wanted, size):
            return
        if not held:
            base = self._distrusted(chain.name, base)
            self.leases.acquire(chain.name, wanted.seq)
        if parent is None:
            self._make_anew(chain.name, base, wanted, size)
        elif held and _is_exactly(base, parent, size):
            self._relabel(chain.name, base.etag, wanted)
        else:
            self._put_back(chain.name, base, wanted, parent)

    def _distrusted(self, name: str, base: Base) -> Base:
        """Take back what the blob says of its bytes, before a lease is held that confirms it.

        Its lease had a gap, in which anybody may have written. A run that is killed once it has
        a lease again, or whose next call fails, finds nothing that it could build upon.
        """
        if base.label is None or base.label.state not in (State.PENDING, State.DONE):
            return base
        void = replace(base.label, state=State.VOID)
        with azure_call(WRITE):
            answer = self.clients.blob(name).set_blob_metadata(
                void.metadata(), etag=base.etag, match_condition=MatchConditions.IfNotModified
            )
        return replace(base, etag=str(field_of(answer, "etag", WRITE)), label=void)

    def _create(self, name: str, wanted: Label, size: int) -> Base:
        """A first blob; of no use yet, because anybody may write until it is leased."""
        void = replace(wanted, state=State.VOID)
        with azure_call(WRITE):
            answer = self.clients.blob(name).create_page_blob(
                size, metadata=void.metadata(), match_condition=MatchConditions.IfMissing
            )
        return Base(str(field_of(answer, "etag", WRITE)), size, void, False, "")

    def _make_anew(self, name: str, base: Base, wanted: Label, size: int) -> None:
        """An empty blob in its place; its snapshots stay ("Put Blob")."""
        with azure_call(WRITE):
            self.clients.blob(name).create_page_blob(
                size,
                metadata=wanted.metadata(),
                lease=self.owner.lease_id(name, wanted.seq),
                etag=base.etag,
                match_condition=MatchConditions.IfNotModified,
            )

    def _put_back(self, name: str, base: Base, wanted: Label, parent: Point) -> None:
        """Overwrite what is there with the parent's bytes, however often it takes."""
        marked = replace(wanted, state=State.RESET)
        if base.copy_status == "pending":
            base = self._await_copy(name)
        lease = self.owner.lease_id(name, wanted.seq)
        log.info("blob %s: point %d is put back before point %d", name, marked.parent, wanted.seq)
        source = self.clients.blob(name, parent.stamp).url
        with azure_call(WRITE):
            self.clients.blob(name).start_copy_from_url(
                source,
                metadata=marked.metadata(),
                destination_lease=lease,
                etag=base.etag,
                match_condition=MatchConditions.IfNotModified,
            )
        copied = self._await_copy(name)
        label = copied.label
        if copied.copy_status != "success" or label is None or label != marked:
            raise TransientError(
                f"putting point {parent.label.seq} back into {name} ended as {copied.copy_status!r}"
            )
        self._relabel(name, copied.etag, wanted)

    def _await_copy(self, name: str) -> Base:
        def ended() -> Base | None:
            base = self.chains.of(name).base
            if base is None:
                raise MissingError(f"blob {name} is gone")
            return base if base.copy_status != "pending" else None

        return self.waiter.until(ended, self.copy_timeout_seconds, f"a copy into blob {name}")

    def _relabel(self, name: str, etag: str, label: Label) -> None:
        with azure_call(WRITE):
            self.clients.blob(name).set_blob_metadata(
                label.metadata(),
                lease=self.owner.lease_id(name, label.seq),
                etag=etag,
                match_condition=MatchConditions.IfNotModified,
            )

    # ------------------------------------------------------------------ pending points

    def generation(self, snapshot: str) -> str:
        """Which bytes a point under construction is made of; of a complete one, those it has.

        Raises:
            TargetError: it cannot be gone on with; the round has to be given up.
            LockedError: somebody else holds the blob.
        """
        name, seq = self.parsed(snapshot)
        chain = self.chains.of(name)
        point, base = chain.point(seq), chain.base
        if point is not None:
            return point.label.generation
        label = base.label if base is not None else None
        if label is None or label.state is not State.PENDING or label.seq != seq:
            raise TargetError(
                f"{snapshot} is not under construction",
                next_step="run the same command again: it starts a new round",
                snapshot=snapshot,
            )
        if not self.leases.renewed(name, seq):
            raise self._lost(name, base)
        return label.generation

    def _lost(self, name: str, base: Base | None) -> Exception:
        if base is not None and base.leased:
            return lease_lost(name, TargetError("the lease is another's"))
        return TargetError(
            f"the lease of staging blob {name} was broken: anybody may have written to it",
            next_step="run the same command again: it starts a new round on the last good point",
            blob=name,
        )

    def commit(self, snapshot: str, generation: str) -> None:
        """Make the point exist: a blob snapshot with its number, under its lease.

        Raises:
            TargetError: the bytes are no longer those that this generation wrote.
            LockedError: somebody else holds the blob.
            TransientError: unknown whether it took effect; call it again.
        """
        name, seq = self.parsed(snapshot)
        chain = self.chains.of(name)
        base = chain.base
        point = chain.point(seq)
        if point is not None and point.label.generation != generation:
            raise IntegrityError(
                f"{snapshot} was completed over other blocks than this run wrote",
                next_step="keep the journal and start this disk again with a full copy",
                snapshot=snapshot,
            )
        if point is None:
            label = base.label if base is not None else None
            expected = (State.PENDING, seq, generation)
            if label is None or (label.state, label.seq, label.generation) != expected:
                raise TargetError(
                    f"{snapshot} was given up or begun anew by somebody else",
                    next_step="run the same command again: it starts a new round",
                    snapshot=snapshot,
                )
            with races_again(name):
                self._snapshot(name, base, label)  # type: ignore[arg-type]
            chain = self.chains.of(name)
        if chain.point(seq) is None:
            raise TransientError(f"the snapshot of {snapshot} is not there (any more)", blob=name)
        self._drop(chain.points[seq][1:])
        self._close(chain, seq)

    def _snapshot(self, name: str, base: Base, label: Label) -> None:
        lease = self.owner.lease_id(name, label.seq)
        footer = fixed_footer(
            base.size - FOOTER_BYTES, unique_id=footer_id(name), created=_FOOTER_CREATED
        )
        with azure_call(WRITE):
            written = self.clients.blob(name).upload_page(
                footer,
                base.size - FOOTER_BYTES,
                FOOTER_BYTES,
                lease=lease,
                validate_content="md5",
                etag=base.etag,
                match_condition=MatchConditions.IfNotModified,
            )
        with azure_call(WRITE):
            answer = self.clients.blob(name).create_snapshot(
                metadata=replace(label, state=State.POINT).metadata(),
                lease=lease,
                etag=str(field_of(written, "etag", WRITE)),
                match_condition=MatchConditions.IfNotModified,
            )
        field_of(answer, "snapshot", WRITE)

    def _close(self, chain: Chain, seq: int) -> None:
        """Say that the base is exactly this point, so that the next one may stand on it.

        Only to save a copy: a base that does not say so is overwritten with its parent.
        """
        base = chain.base
        label = base.label if base is not None else None
        if base is None or label is None:
            return
        if label.state is State.PENDING and label.seq == seq:
            with races_again(chain.name):
                self._relabel(chain.name, base.etag, replace(label, state=State.DONE))

    # ------------------------------------------------------------------ state, deletion

    def state(self, snapshot: str) -> SnapshotState:
        """Where a point of a disk stands."""
        name, seq = self.parsed(snapshot)
        chain = self.chains.of(name)
        if chain.point(seq) is not None:
            return SnapshotState.COMPLETED
        base = chain.base
        if base is None or base.label is None or not base.leased:
            return SnapshotState.MISSING
        pending = base.label.state is State.PENDING and base.label.seq == seq
        return SnapshotState.PENDING if pending else SnapshotState.MISSING

    def point(self, snapshot: str) -> Point | None:
        """A point that exists."""
        name, seq = self.parsed(snapshot)
        return self.chains.of(name).point(seq)

    def delete(self, snapshot: str) -> None:
        """Let go of a point, complete or not; fine when it is gone.

        The last one takes the staging blob with it.
        """
        name, seq = self.parsed(snapshot)
        chain = self.chains.of(name)
        self._drop(chain.points.get(seq, ()))
        base = chain.base
        if base is None or base.label is None:
            return
        rest = [number for number in chain.points if number != seq]
        if rest:
            self._void(chain.name, base, base.label, seq)
        elif base.label.seq <= seq and base.label.migration == self.owner.migration_id:
            self.remove(name)

    def _void(self, name: str, base: Base, label: Label, seq: int) -> None:
        """What a given-up point wrote is good for nothing; the next round puts it right."""
        if label.seq != seq or label.state is State.VOID:
            return
        try:
            with races_again(name):
                self._relabel(name, base.etag, replace(label, state=State.VOID))
        except LockedError as error:
            log.info("blob %s is not voided: %s", name, error.message)

    def _drop(self, points: tuple[Point, ...]) -> None:
        for point in points:
            try:
                with azure_call(DELETE):
                    self.clients.blob(point.blob, point.stamp).delete_blob()
            except MissingError:
                log.debug("point %d of %s is gone already", point.label.seq, point.blob)

    def remove(self, name: str) -> None:
        """Delete a staging blob with all its snapshots, whoever holds its lease."""
        try:
            self.leases.broken(name)
            with azure_call(DELETE):
                self.clients.blob(name).delete_blob(delete_snapshots="include")
        except MissingError:
            log.debug("blob %s is gone already", name)

    def owned(self) -> list[str]:
        """Every point of the migration, complete or not."""
        found = []
        for name, chain in self.chains.below(f"{self.owner.migration_id}/").items():
            label = chain.base.label if chain.base is not None else None
            if label is not None and label.state is State.IMAGE:
                continue
            numbers = set(chain.points)
            if label is not None and label.migration == self.owner.migration_id:
                pending = label.state in (State.PENDING, State.RESET)
                numbers |= {label.seq} if pending or not numbers else set()
            found += [snapshot_id(name, seq) for seq in sorted(numbers)]
        return found

    def parsed(self, snapshot: str) -> tuple[str, int]:
        """Blob and number; refused when it is not this migration's.

        Raises:
            TargetError: it is another's.
        """
        parsed = parse_snapshot_id(snapshot)
        if parsed is None or not parsed[0].startswith(f"{self.owner.migration_id}/"):
            raise TargetError(
                f"{snapshot} does not belong to {self.owner.migration_id}", snapshot=snapshot
            )
        return parsed


def _goes_on(base: Base, wanted: Label, size: int) -> bool:
    """Whether the blob is already being written as wanted, by us or by a run that was killed."""
    label = base.label
    return (
        label is not None
        and label.state is State.PENDING
        and (label.seq, label.parent) == (wanted.seq, wanted.parent)
        and base.size == size
    )


def _is_exactly(base: Base, parent: Point, size: int) -> bool:
    label = base.label
    return (
        label is not None
        and label.state is State.DONE
        and label.seq == parent.label.seq
        and label.generation == parent.label.generation
        and base.size == size
    )


class races_again:
    """A condition that was not met means that somebody else was faster: look again."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if not isinstance(error, TargetError):
            return
        if code_of(error) in _RACED:
            raise TransientError(
                f"blob {self._name} changed meanwhile: {code_of(error)}", blob=self._name
            ) from None
        if is_not_held(error):
            raise lease_lost(self._name, error) from None
