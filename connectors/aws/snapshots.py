"""Snapshots of a migration: started, found again, described, deleted."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from connectors.aws import tags as names
from connectors.aws.errors import MissingError, aws_call, field_of
from connectors.aws.session import AwsClients
from connectors.aws.spec import AwsSpec
from connectors.aws.wait import VISIBLE_SECONDS
from sealift.clock import Clock
from sealift.disk import Unwritten
from sealift.endpoints import SnapshotRef, SnapshotState, VmDisk
from sealift.errors import TargetError, TransientError
from sealift.units import GiB, format_size, round_up

if TYPE_CHECKING:
    from mypy_boto3_ebs.type_defs import StartSnapshotRequestTypeDef, StartSnapshotResponseTypeDef
    from mypy_boto3_ec2.type_defs import SnapshotTypeDef

log = logging.getLogger(__name__)

_MAX_ATTEMPTS = 10
_STATES = {
    "pending": SnapshotState.PENDING,
    "completed": SnapshotState.COMPLETED,
    "error": SnapshotState.FAILED,
    "recoverable": SnapshotState.MISSING,
    "recovering": SnapshotState.MISSING,
}


@dataclass(frozen=True, slots=True)
class SnapshotFacts:
    """What EC2 says about one snapshot.

    Attributes:
        id: of the snapshot.
        state: never MISSING.
        size: bytes of the volume it makes.
        encrypted: whether it is.
        started: by EC2's clock.
        tags: all of them.
    """

    id: str
    state: SnapshotState
    size: int
    encrypted: bool
    started: datetime
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Snapshots:
    """The snapshots of one migration.

    Args:
        clients: SDK clients.
        spec: the plan.
        owner: whose they are.
        clock: for the age of a snapshot where EBS names no time.
    """

    clients: AwsClients
    spec: AwsSpec
    owner: names.Owner
    clock: Clock

    def begin(self, seq: int, disk: VmDisk, parent: SnapshotRef | None) -> SnapshotRef:
        """Start (or find) the snapshot of ``disk`` at point ``seq``.

        Found by tags first, because client tokens are not kept for ever; started with a
        token that follows from all parameters, so that a lost answer starts nothing twice.
        One that failed or was deleted is left behind and another is started.

        Raises:
            TargetError: the disk outgrew the parent, or the parent does not fit the plan.
        """
        size = self._volume_size(disk, parent)
        found = [s for s in self._of(seq, disk, parent) if s.size == size]
        alive = [s for s in found if s.state is not SnapshotState.FAILED]
        if alive:
            return SnapshotRef(min(alive, key=lambda s: (s.started, s.id)).id, size)
        zeroes = self._zeroes(parent)
        first = 1 + max((int(s.tags.get(names.ATTEMPT, "0")) for s in found), default=-1)
        for attempt in range(first, first + _MAX_ATTEMPTS):
            request = self._request(seq, disk, parent, size, zeroes, attempt)
            snapshot_id = self._started(request)
            if snapshot_id is not None:
                return SnapshotRef(snapshot_id, size)
        raise TargetError(
            f"{_MAX_ATTEMPTS} snapshots of disk {disk.id} at point {seq} failed or were deleted",
            next_step="see why in the EC2 console, then run the same command again",
        )

    def _volume_size(self, disk: VmDisk, parent: SnapshotRef | None) -> int:
        size = round_up(max(disk.size, 1), GiB)
        if parent is None:
            return size
        if size > parent.size:
            raise TargetError(
                f"disk {disk.id} of {format_size(disk.size)} no longer fits the volume of "
                f"{format_size(parent.size)} of its parent snapshot {parent.id}",
                next_step="start this disk again with a full copy",
                disk=disk.id,
                parent=parent.id,
            )
        return parent.size  # that a child may have another size than its parent is not documented

    def _zeroes(self, parent: SnapshotRef | None) -> str:
        """Whether zero blocks of the chain are written, decided once, by its first snapshot."""
        safe = self.spec.encrypted or self.launches_encrypted()
        if parent is None:
            return names.ZEROES_WRITTEN if safe else names.ZEROES_SKIPPED
        facts = self.facts(parent.id)
        if facts is None or facts.state is not SnapshotState.COMPLETED:
            raise TargetError(
                f"parent snapshot {parent.id} is {facts.state.value if facts else 'gone'}",
                next_step="start this disk again with a full copy",
                parent=parent.id,
            )
        self._check_parent(facts, safe=safe)
        return facts.tags.get(names.ZEROES, names.ZEROES_SKIPPED)

    def _check_parent(self, facts: SnapshotFacts, *, safe: bool) -> None:
        skipped = facts.tags.get(names.ZEROES) != names.ZEROES_WRITTEN
        if safe and skipped and not facts.encrypted:
            raise TargetError(
                f"parent snapshot {facts.id} left zero blocks out, which read as noise on an "
                "encrypted volume, and encryption is asked for by now",
                next_step="start this disk again with a full copy",
                parent=facts.id,
            )
        if self.spec.encrypted and not facts.encrypted:
            raise TargetError(
                f"parent snapshot {facts.id} is not encrypted and the plan wants it to be",
                next_step="start this disk again with a full copy",
                parent=facts.id,
            )

    def launches_encrypted(self) -> bool:
        """Whether volumes come out encrypted, by the plan or by the account's default."""
        if self.spec.launch_encrypted:
            return True
        with aws_call("ec2:GetEbsEncryptionByDefault"):
            answer = self.clients.ec2.get_ebs_encryption_by_default()
        default = field_of(answer, "EbsEncryptionByDefault", "ec2:GetEbsEncryptionByDefault")
        return bool(default)

    def _request(
        self,
        seq: int,
        disk: VmDisk,
        parent: SnapshotRef | None,
        size: int,
        zeroes: str,
        attempt: int,
    ) -> "StartSnapshotRequestTypeDef":
        own = {
            **_point_tags(seq, disk, parent),
            names.ZEROES: zeroes,
            names.ATTEMPT: str(attempt),
        }
        name = f"sealift {self.owner.migration_id} point {seq} disk {disk.id}"
        request: StartSnapshotRequestTypeDef = {
            "VolumeSize": size // GiB,
            "Description": name[:255],
            "Tags": self.owner.tags(name[:255], own),
            "Timeout": self.spec.snapshot_timeout_minutes,
        }
        if parent is not None:
            request["ParentSnapshotId"] = parent.id  # excludes Encrypted and KmsKeyArn
        elif self.spec.encrypted:
            request["Encrypted"] = True
            if self.spec.kms_key_id:
                request["KmsKeyArn"] = self.key_arn(self.spec.kms_key_id)
        request["ClientToken"] = names.client_token("snapshot", request)
        return request

    def key_arn(self, key_id: str) -> str:
        """ARN of a key given as ARN, id or alias; StartSnapshot takes ARNs only."""
        if key_id.startswith("arn:") and ":key/" in key_id:
            return key_id
        with aws_call("kms:DescribeKey"):
            answer = self.clients.kms.describe_key(KeyId=key_id)
        return str(field_of(field_of(answer, "KeyMetadata", "kms:DescribeKey"), "Arn", "KMS"))

    def _started(self, request: "StartSnapshotRequestTypeDef") -> str | None:
        """Id of the snapshot; None when the one that this token stands for is gone or failed."""
        with aws_call("ebs:StartSnapshot"):
            answer = self.clients.ebs.start_snapshot(**request)
        snapshot_id = str(field_of(answer, "SnapshotId", "ebs:StartSnapshot"))
        facts = self.facts(snapshot_id)
        if facts is None:
            return snapshot_id if self._age(answer) <= VISIBLE_SECONDS else None
        return None if facts.state is SnapshotState.FAILED else snapshot_id

    def _age(self, answer: "StartSnapshotResponseTypeDef") -> float:
        """Seconds since the start, by AWS's clock on both sides where the answer has a date."""
        started: datetime = field_of(answer, "StartTime", "ebs:StartSnapshot")
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        now = parsedate_to_datetime(date) if date else self.clock.now()
        return (now - started).total_seconds()

    def _of(self, seq: int, disk: VmDisk, parent: SnapshotRef | None) -> list[SnapshotFacts]:
        return list(self.owned(_point_tags(seq, disk, parent)))

    def owned(self, own: Mapping[str, str] | None = None) -> Iterator[SnapshotFacts]:
        """Every snapshot of the migration (with tags ``own``), failed ones too."""
        with aws_call("ec2:DescribeSnapshots"):
            pages = self.clients.ec2.get_paginator("describe_snapshots").paginate(
                OwnerIds=["self"], Filters=self.owner.filters(own)
            )
            answers = list(pages)
        for snapshot in (s for answer in answers for s in _listed(answer)):
            facts = _facts(snapshot)
            if facts is not None:
                yield facts

    def facts(self, snapshot_id: str) -> SnapshotFacts | None:
        """What EC2 says about it; None when it does not know it (deleted, or too new)."""
        try:
            with aws_call("ec2:DescribeSnapshots"):
                answer = self.clients.ec2.describe_snapshots(SnapshotIds=[snapshot_id])
        except MissingError:
            return None
        found = _listed(answer)
        return _facts(found[0]) if found else None

    def state(self, snapshot_id: str) -> SnapshotState:
        """Where a snapshot stands."""
        facts = self.facts(snapshot_id)
        return facts.state if facts else SnapshotState.MISSING

    def unwritten(self, ref: SnapshotRef, parent: SnapshotRef | None) -> Unwritten:
        """What a block that nobody writes will read as.

        Decided by what the snapshot is and by what its chain promised when it began, never
        by the plan of the day; so it is the same for every process that opens it.

        Raises:
            TransientError: the snapshot is not visible yet.
        """
        if parent is not None:
            return Unwritten.BASE
        facts = self.facts(ref.id)
        if facts is None:
            raise TransientError(f"snapshot {ref.id} is not visible yet", snapshot_id=ref.id)
        skipped = facts.tags.get(names.ZEROES) == names.ZEROES_SKIPPED
        return Unwritten.ZERO if skipped and not facts.encrypted else Unwritten.UNDEFINED

    def tag(self, snapshot_id: str, own: Mapping[str, str]) -> None:
        """Set tags; idempotent."""
        with aws_call("ec2:CreateTags"):
            self.clients.ec2.create_tags(
                Resources=[snapshot_id],
                Tags=[{"Key": key, "Value": value} for key, value in own.items()],
            )

    def delete(self, snapshot_id: str) -> None:
        """Delete it; fine when it is gone already.

        Raises:
            TargetError: it is not this migration's, or an image still uses it.
        """
        facts = self.facts(snapshot_id)
        if facts is not None and not self.owner.owns(facts.tags):
            raise TargetError(
                f"snapshot {snapshot_id} does not belong to {self.owner.migration_id}",
                snapshot_id=snapshot_id,
            )
        try:
            with aws_call("ec2:DeleteSnapshot"):
                self.clients.ec2.delete_snapshot(SnapshotId=snapshot_id)
        except MissingError:
            log.debug("snapshot %s is gone already", snapshot_id)


def _point_tags(seq: int, disk: VmDisk, parent: SnapshotRef | None) -> dict[str, str]:
    return {
        names.POINT: str(seq),
        names.DISK: disk.id,
        names.PARENT: parent.id if parent else names.NO_PARENT,
    }


def _listed(answer: Mapping[str, Any]) -> "list[SnapshotTypeDef]":
    found: list[SnapshotTypeDef] = field_of(answer, "Snapshots", "ec2:DescribeSnapshots")
    return found


def _facts(snapshot: "SnapshotTypeDef | Mapping[str, Any]") -> SnapshotFacts | None:
    state = _STATES.get(str(field_of(snapshot, "State", "ec2:DescribeSnapshots")))
    if state is None or state is SnapshotState.MISSING:
        return None
    return SnapshotFacts(
        id=str(field_of(snapshot, "SnapshotId", "ec2:DescribeSnapshots")),
        state=state,
        size=int(field_of(snapshot, "VolumeSize", "ec2:DescribeSnapshots")) * GiB,
        encrypted=bool(snapshot.get("Encrypted", False)),
        started=field_of(snapshot, "StartTime", "ec2:DescribeSnapshots"),
        tags=names.tag_map(snapshot.get("Tags")),
    )
